/* PTX text to instructions. */
#include "ptx.h"

#include <ctype.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { WORD = 256, MOST_NAMES = 4096 };

struct name { char text[128]; enum { IS_REGISTER, IS_SHARED, IS_LABEL } kind; uint64_t value; int count; };

struct reader {
    const char *at;
    int line;
    char word[WORD]; /* the current token; empty at the end */
    jmp_buf failed;
    int code;
    char *reason;
    struct ptx_kernel *kernel, *kernels; /* the one being read, and all */
    struct name *names;
    int name_count;
};

static void fail(struct reader *r, int code, const char *what)
{
    r->code = code;
    snprintf(r->reason, 256, "line %d: %s '%.80s'", r->line, what, r->word);
    longjmp(r->failed, 1);
}

static void next(struct reader *r)
{
    for (;;) {
        if (*r->at == '\n')
            r->line++;
        if (isspace((unsigned char)*r->at)) {
            r->at++;
        } else if (r->at[0] == '/' && r->at[1] == '/') {
            r->at += strcspn(r->at, "\n");
        } else if (r->at[0] == '/' && r->at[1] == '*') {
            for (r->at += 2; *r->at != '\0' && !(r->at[0] == '*' && r->at[1] == '/'); r->at++)
                r->line += *r->at == '\n';
            r->at += *r->at != '\0' ? 2 : 0;
        } else {
            break;
        }
    }
    size_t length = 0;
    while (isalnum((unsigned char)r->at[length]) || (r->at[length] != '\0' && strchr("_.$%", r->at[length]) != NULL))
        length++;
    if (length == 0 && *r->at != '\0')
        length = 1;
    if (length >= WORD)
        length = WORD - 1;
    memcpy(r->word, r->at, length);
    r->word[length] = '\0';
    r->at += length;
}

static int is(const struct reader *r, const char *word) { return strcmp(r->word, word) == 0; }

static int accept(struct reader *r, const char *word)
{
    if (!is(r, word))
        return 0;
    next(r);
    return 1;
}

static void expect(struct reader *r, const char *word)
{
    char what[64];
    if (accept(r, word))
        return;
    snprintf(what, sizeof what, "expected '%s', not", word);
    fail(r, PTX_BAD, what);
}

size_t ptx_width(enum ptx_type type)
{
    static const size_t widths[] = {0, 1, 2, 4, 8, 1, 2, 4, 8, 4, 8, 1};
    return widths[type];
}

static enum ptx_type type_named(const char *text)
{
    static const struct { const char *text; enum ptx_type type; } types[] = {
        {"u8", T_U8}, {"b8", T_U8}, {"s8", T_S8}, {"u16", T_U16}, {"b16", T_U16}, {"s16", T_S16}, {"u32", T_U32},
        {"b32", T_U32}, {"s32", T_S32}, {"u64", T_U64}, {"b64", T_U64}, {"s64", T_S64}, {"f32", T_F32}, {"f64", T_F64},
        {"pred", T_PRED},
    };
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if (strcmp(types[i].text, text) == 0)
            return types[i].type;
    return T_NONE;
}

static enum ptx_type need_type(struct reader *r)
{
    enum ptx_type type = r->word[0] == '.' ? type_named(r->word + 1) : T_NONE;
    if (type == T_NONE)
        fail(r, PTX_BAD, "expected a type, not");
    next(r);
    return type;
}

static long need_number(struct reader *r)
{
    char *end;
    long value = strtol(r->word, &end, 0);
    if (end == r->word || *end != '\0')
        fail(r, PTX_BAD, "expected a number, not");
    next(r);
    return value;
}

static struct name *define(struct reader *r, const char *text, int kind, uint64_t value)
{
    if (r->name_count == MOST_NAMES || strlen(text) >= sizeof r->names->text)
        fail(r, PTX_BAD, "too many or too long names at");
    struct name *made = &r->names[r->name_count++];
    strcpy(made->text, text);
    made->kind = kind;
    made->value = value;
    made->count = 0;
    return made;
}

/* Registers may be declared as a family, %r<5> for %r0 to %r4. */
static struct name *look_up(struct reader *r, const char *text, uint64_t *value)
{
    for (int i = r->name_count - 1; i >= 0; i--) {
        struct name *found = &r->names[i];
        size_t length = strlen(found->text);
        if (found->count == 0 && strcmp(found->text, text) == 0) {
            *value = found->value;
            return found;
        }
        if (found->count > 0 && strncmp(found->text, text, length) == 0 && isdigit((unsigned char)text[length])) {
            char *end;
            long index = strtol(text + length, &end, 10);
            if (*end == '\0' && index < found->count) {
                *value = found->value + (uint64_t)index;
                return found;
            }
        }
    }
    return NULL;
}

/* .param .u64 name, with the alignment and pointer notes that compilers add; or an array of bytes. */
static void parameter(struct reader *r)
{
    struct ptx_kernel *kernel = r->kernel;
    expect(r, ".param");
    if (accept(r, ".align"))
        need_number(r);
    size_t width = ptx_width(need_type(r)), alignment = width;
    while (r->word[0] == '.') {
        if (accept(r, ".align"))
            need_number(r);
        else if (is(r, ".ptr") || is(r, ".global"))
            next(r);
        else
            fail(r, PTX_BAD, "unsupported parameter attribute");
    }
    kernel->parameters =
        realloc(kernel->parameters, (size_t)(kernel->parameter_count + 1) * sizeof *kernel->parameters);
    struct ptx_parameter *made = &kernel->parameters[kernel->parameter_count++];
    snprintf(made->name, sizeof made->name, "%.127s", r->word);
    next(r);
    made->size = width;
    if (accept(r, "[")) {
        made->size = width * (size_t)need_number(r);
        alignment = 8;
        expect(r, "]");
    }
    made->offset = (kernel->parameter_bytes + alignment - 1) / alignment * alignment;
    kernel->parameter_bytes = made->offset + made->size;
}

static void registers(struct reader *r)
{
    need_type(r);
    do {
        struct name *made = define(r, r->word, IS_REGISTER, (uint64_t)r->kernel->registers);
        int count = 1;
        next(r);
        if (accept(r, "<")) {
            count = made->count = (int)need_number(r);
            expect(r, ">");
        }
        if (count < 1 || r->kernel->registers + count > 65536)
            fail(r, PTX_BAD, "bad number of registers at");
        r->kernel->registers += count;
    } while (accept(r, ","));
    expect(r, ";");
}

static void shared(struct reader *r)
{
    size_t alignment = 8;
    if (accept(r, ".align"))
        alignment = (size_t)need_number(r);
    size_t size = ptx_width(need_type(r));
    if (alignment == 0)
        fail(r, PTX_BAD, "bad alignment before");
    size_t offset = (r->kernel->shared_bytes + alignment - 1) / alignment * alignment;
    define(r, r->word, IS_SHARED, offset);
    next(r);
    if (accept(r, "[")) {
        size *= (size_t)need_number(r);
        expect(r, "]");
    }
    expect(r, ";");
    r->kernel->shared_bytes = offset + size;
}

static int special(const char *text)
{
    static const char *const names[SPECIALS] = {"%tid.x", "%tid.y", "%tid.z", "%ntid.x", "%ntid.y", "%ntid.z",
                                                "%ctaid.x", "%ctaid.y", "%ctaid.z", "%nctaid.x", "%nctaid.y",
                                                "%nctaid.z", "%laneid"};
    for (int i = 0; i < SPECIALS; i++)
        if (strcmp(names[i], text) == 0)
            return i;
    return -1;
}

/* An immediate; PTX writes float bits as 0fXXXXXXXX and 0dXXXXXXXXXXXXXXXX. */
static uint64_t immediate(struct reader *r, enum ptx_type type)
{
    int negative = accept(r, "-");
    uint64_t bits = 0;
    char *end;
    const char *text = r->word;
    double real = 0;
    int is_real = 1;
    if (text[0] == '0' && (text[1] == 'f' || text[1] == 'F') && strlen(text) == 10) {
        uint32_t word = (uint32_t)strtoul(text + 2, &end, 16);
        float value;
        memcpy(&value, &word, 4);
        real = value;
    } else if (text[0] == '0' && (text[1] == 'd' || text[1] == 'D') && strlen(text) == 18) {
        bits = strtoull(text + 2, &end, 16);
        memcpy(&real, &bits, 8);
    } else if (strchr(text, '.') != NULL) {
        real = strtod(text, &end);
    } else {
        is_real = 0;
        bits = strtoull(text, &end, 0);
        end += *end == 'U';
    }
    if (end == text || *end != '\0')
        fail(r, PTX_BAD, "unsupported operand");
    next(r);
    if (!is_real && type != T_F32 && type != T_F64)
        return negative ? -bits : bits;
    if (!is_real)
        fail(r, PTX_BAD, "a whole number as float operand before");
    if (negative)
        real = -real;
    if (type == T_F64) {
        memcpy(&bits, &real, 8);
    } else { /* untyped 32-bit moves take float bits, too */
        float value = (float)real;
        bits = 0;
        memcpy(&bits, &value, 4);
    }
    return bits;
}

static struct ptx_operand operand(struct reader *r, enum ptx_type type)
{
    struct ptx_operand made = {NOTHING, 0, 0};
    int index = special(r->word);
    struct name *found = look_up(r, r->word, &made.value);
    if (index >= 0) {
        made.kind = SPECIAL;
        made.value = (uint64_t)index;
        next(r);
    } else if (found != NULL && found->kind != IS_LABEL) {
        made.kind = found->kind == IS_REGISTER ? REGISTER : VALUE;
        next(r);
    } else if (isdigit((unsigned char)r->word[0]) || is(r, "-")) {
        made.kind = VALUE;
        made.value = immediate(r, type);
    } else {
        fail(r, PTX_BAD, "unsupported or unknown operand");
    }
    return made;
}

/* [name], [register], [register+4], [name-8] */
static struct ptx_operand address(struct reader *r, enum ptx_space space)
{
    struct ptx_operand made = {VALUE, 0, 0};
    expect(r, "[");
    if (space == SPACE_PARAM) {
        int index = 0;
        while (index < r->kernel->parameter_count && !is(r, r->kernel->parameters[index].name))
            index++;
        if (index == r->kernel->parameter_count)
            fail(r, PTX_BAD, "unknown parameter");
        made.value = r->kernel->parameters[index].offset;
        next(r);
    } else {
        made = operand(r, T_U64);
    }
    int minus = is(r, "-");
    if (accept(r, "+") || accept(r, "-")) {
        int negative = accept(r, "-");
        made.offset = need_number(r);
        if (minus != negative)
            made.offset = -made.offset;
    }
    expect(r, "]");
    return made;
}

static void need_register(struct reader *r, struct ptx_operand operand)
{
    if (operand.kind != REGISTER)
        fail(r, PTX_BAD, "the result must be a register, before");
}

static const struct { const char *text; enum ptx_op op; int operands; const char *modifiers; } table[] = {
    /* the modifiers that change nothing here, each between spaces; others are handled below or refused */
    {"mov", OP_MOV, 1, " "},
    {"cvta", OP_MOV, 1, " to global "},
    {"ld", OP_LD, 1, " global param shared nc volatile relaxed weak ca cg cs lu cv "},
    {"ldu", OP_LD, 1, " global "},
    {"st", OP_ST, 1, " global shared volatile relaxed weak wb cg cs wt "},
    {"add", OP_ADD, 2, " rn "},
    {"sub", OP_SUB, 2, " rn "},
    {"mul", OP_MUL, 2, " rn lo hi wide "},
    {"mad", OP_MAD, 3, " rn lo hi wide "},
    {"fma", OP_MAD, 3, " rn "},
    {"div", OP_DIV, 2, " rn approx full "},
    {"rem", OP_REM, 2, " "},
    {"min", OP_MIN, 2, " "},
    {"max", OP_MAX, 2, " "},
    {"neg", OP_NEG, 1, " "},
    {"abs", OP_ABS, 1, " "},
    {"not", OP_NOT, 1, " "},
    {"and", OP_AND, 2, " "},
    {"or", OP_OR, 2, " "},
    {"xor", OP_XOR, 2, " "},
    {"shl", OP_SHL, 2, " "},
    {"shr", OP_SHR, 2, " "},
    {"setp", OP_SETP, 2, " eq ne lt le gt ge lo ls hi hs "},
    {"selp", OP_SELP, 3, " "},
    {"cvt", OP_CVT, 1, " rn rni rzi rz "},
    {"sqrt", OP_SQRT, 1, " rn approx "},
    {"rcp", OP_RCP, 1, " rn approx "},
    {"bra", OP_BRA, 0, " uni "},
    {"ret", OP_RET, 0, " "},
    {"exit", OP_RET, 0, " uni "},
    {"bar", OP_BAR, 0, " sync "},
    {"barrier", OP_BAR, 0, " sync aligned "},
};

static void modifier(struct reader *r, struct ptx_instruction *made, const char *allowed, const char *text)
{
    static const struct { const char *text; enum ptx_compare compare; } compares[] = {
        {"eq", CMP_EQ}, {"ne", CMP_NE}, {"lt", CMP_LT}, {"lo", CMP_LT}, {"le", CMP_LE}, {"ls", CMP_LE}, {"gt", CMP_GT},
        {"hi", CMP_GT}, {"ge", CMP_GE}, {"hs", CMP_GE},
    };
    enum ptx_type type = type_named(text);
    if (type != T_NONE) {
        if (made->op == OP_CVT && made->type != T_NONE)
            made->from = type;
        else if (made->type != T_NONE)
            fail(r, PTX_BAD, "two types in");
        else
            made->type = type;
        return;
    }
    char padded[32];
    snprintf(padded, sizeof padded, " %.28s ", text);
    if (strstr(allowed, padded) == NULL)
        fail(r, PTX_BAD, "unsupported modifier in");
    if (strcmp(text, "param") == 0)
        made->space = SPACE_PARAM;
    if (strcmp(text, "shared") == 0)
        made->space = SPACE_SHARED;
    if (made->op == OP_SETP)
        for (size_t i = 0; i < sizeof compares / sizeof *compares; i++)
            if (strcmp(text, compares[i].text) == 0)
                made->compare = compares[i].compare;
    if (made->op != OP_SETP && strcmp(text, "hi") == 0)
        made->part = PART_HI;
    if (strcmp(text, "wide") == 0)
        made->part = PART_WIDE;
}

static enum ptx_type widened(enum ptx_type type)
{
    return type == T_U16 ? T_U32 : type == T_S16 ? T_S32 : type == T_U32 ? T_U64 : type == T_S32 ? T_S64 : T_NONE;
}

static void instruction(struct reader *r)
{
    struct ptx_instruction made = {.guard = -1};
    if (accept(r, "@")) {
        uint64_t value;
        made.unless = accept(r, "!");
        struct name *found = look_up(r, r->word, &value);
        if (found == NULL || found->kind != IS_REGISTER)
            fail(r, PTX_BAD, "unknown predicate");
        made.guard = (int)value;
        next(r);
    }
    char text[WORD], *rest = NULL;
    strcpy(text, r->word);
    char *part = strtok_r(text, ".", &rest);
    size_t row = 0, rows = sizeof table / sizeof *table;
    while (row < rows && (part == NULL || strcmp(table[row].text, part) != 0))
        row++;
    if (row == rows)
        fail(r, PTX_BAD, "unsupported instruction");
    made.op = table[row].op;
    while ((part = strtok_r(NULL, ".", &rest)) != NULL)
        modifier(r, &made, table[row].modifiers, part);
    if (made.op < OP_BRA && made.type == T_NONE)
        fail(r, PTX_BAD, "no type in");
    if (made.op == OP_CVT && made.from == T_NONE)
        fail(r, PTX_BAD, "no source type in");
    if (made.part == PART_WIDE && widened(made.type) == T_NONE)
        fail(r, PTX_BAD, "cannot widen");
    next(r);
    enum ptx_type sources = made.op == OP_CVT ? made.from : made.type;
    struct ptx_operand *const places[] = {&made.a, &made.b, &made.c};
    switch (made.op) {
    case OP_LD:
        made.to = operand(r, made.type);
        need_register(r, made.to);
        expect(r, ",");
        made.a = address(r, made.space);
        break;
    case OP_ST:
        made.to = address(r, made.space);
        expect(r, ",");
        made.a = operand(r, made.type);
        break;
    case OP_BRA:
        /* the label may come later: remember its name's place, resolved at the end */
        made.to.kind = LABEL;
        made.to.value = (uint64_t)(define(r, r->word, IS_LABEL, UINT64_MAX) - r->names);
        next(r);
        break;
    case OP_RET:
        break;
    case OP_BAR:
        made.a = operand(r, T_U32);
        break;
    default:
        made.to = operand(r, made.type);
        need_register(r, made.to);
        for (int i = 0; i < table[row].operands; i++) {
            enum ptx_type type = made.op == OP_SELP && i == 2                              ? T_PRED
                                 : (made.op == OP_SHL || made.op == OP_SHR) && i == 1      ? T_U32
                                 : made.op == OP_MAD && made.part == PART_WIDE && i == 2   ? widened(made.type)
                                                                                           : sources;
            expect(r, ",");
            *places[i] = operand(r, type);
        }
    }
    expect(r, ";");
    struct ptx_kernel *kernel = r->kernel;
    kernel->code = realloc(kernel->code, (size_t)(kernel->length + 1) * sizeof made);
    kernel->code[kernel->length++] = made;
}

/* A label of its own ends the word with ":"; one that was only jumped to has UINT64_MAX as its place. */
static void resolve(struct reader *r)
{
    for (int i = 0; i < r->kernel->length; i++) {
        struct ptx_instruction *jump = &r->kernel->code[i];
        if (jump->op != OP_BRA)
            continue;
        const char *wanted = r->names[jump->to.value].text;
        uint64_t place = UINT64_MAX;
        for (int n = 0; n < r->name_count; n++)
            if (r->names[n].kind == IS_LABEL && r->names[n].value != UINT64_MAX &&
                strcmp(r->names[n].text, wanted) == 0)
                place = r->names[n].value;
        if (place == UINT64_MAX) {
            snprintf(r->word, WORD, "%.100s", wanted);
            fail(r, PTX_BAD, "unknown label");
        }
        jump->to.value = place;
    }
}

static void body(struct reader *r)
{
    int depth = 1;
    expect(r, "{");
    while (depth > 0) {
        const char *after = r->at;
        while (isspace((unsigned char)*after))
            after++;
        if (r->word[0] == '\0')
            fail(r, PTX_BAD, "unexpected end");
        if (accept(r, "{"))
            depth++;
        else if (is(r, "}")) {
            if (--depth > 0)
                next(r);
        } else if (accept(r, ".reg"))
            registers(r);
        else if (accept(r, ".shared"))
            shared(r);
        else if (is(r, ".loc") || is(r, ".pragma")) { /* notes of the compiler, to the end of the line or statement */
            r->at += strcspn(r->at, is(r, ".loc") ? "\n" : ";");
            r->at += *r->at == ';';
            next(r);
        } else if (*after == ':' && r->word[0] != '@') {
            define(r, r->word, IS_LABEL, (uint64_t)r->kernel->length);
            next(r);
            expect(r, ":");
        } else
            instruction(r);
    }
    resolve(r);
    next(r);
}

static void entry(struct reader *r)
{
    struct ptx_kernel *kernel = calloc(1, sizeof *kernel);
    kernel->next = r->kernels;
    r->kernels = r->kernel = kernel;
    r->name_count = 0;
    snprintf(kernel->name, sizeof kernel->name, "%s", r->word);
    next(r);
    if (accept(r, "(") && !accept(r, ")")) {
        do
            parameter(r);
        while (accept(r, ","));
        expect(r, ")");
    }
    while (is(r, ".maxntid") || is(r, ".reqntid") || is(r, ".minnctapersm")) {
        do {
            next(r);
            need_number(r);
        } while (is(r, ","));
    }
    body(r);
}

static void module(struct reader *r, int most_version, int capability)
{
    int major = 0, minor = 0, wanted = 0;
    next(r);
    expect(r, ".version");
    if (sscanf(r->word, "%d.%d", &major, &minor) != 2)
        fail(r, PTX_BAD, "bad version");
    if (major * 10 + minor > most_version)
        fail(r, PTX_TOO_NEW, "unsupported version");
    next(r);
    expect(r, ".target");
    if (sscanf(r->word, "sm_%d", &wanted) != 1)
        fail(r, PTX_BAD, "unsupported target");
    if (wanted > capability)
        fail(r, PTX_BAD, "the device is older than target");
    next(r);
    if (accept(r, ".address_size") && need_number(r) != 64)
        fail(r, PTX_BAD, "unsupported address size before");
    while (r->word[0] != '\0') {
        if (accept(r, ".visible") || accept(r, ".weak"))
            continue;
        if (is(r, ".file")) {
            r->at += strcspn(r->at, "\n");
            next(r);
            continue;
        }
        expect(r, ".entry");
        entry(r);
    }
}

static int parsed(struct reader *r, int most_version, int capability)
{
    if (setjmp(r->failed) != 0)
        return 0;
    module(r, most_version, capability);
    return 1;
}

struct ptx_kernel *ptx_load(const char *text, int most_version, int capability, int *code, char reason[256])
{
    struct reader *r = calloc(1, sizeof *r);
    r->names = calloc(MOST_NAMES, sizeof *r->names);
    r->at = text;
    r->line = 1;
    r->reason = reason;
    if (!parsed(r, most_version, capability)) {
        ptx_free(r->kernels);
        r->kernels = NULL;
    } else if (r->kernels == NULL) {
        r->code = PTX_BAD;
        snprintf(reason, 256, "no kernel in the text");
    }
    struct ptx_kernel *kernels = r->kernels;
    *code = r->code;
    free(r->names);
    free(r);
    return kernels;
}

void ptx_free(struct ptx_kernel *kernels)
{
    while (kernels != NULL) {
        struct ptx_kernel *next_one = kernels->next;
        free(kernels->parameters);
        free(kernels->code);
        free(kernels);
        kernels = next_one;
    }
}
