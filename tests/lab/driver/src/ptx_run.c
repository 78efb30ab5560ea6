/* Runs one kernel: blocks one after the other, the threads of a block in turns from barrier to barrier. */
#include "ptx.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { ILLEGAL_ADDRESS = 700, OUT_OF_MEMORY = 2 };

struct thread {
    uint64_t *registers;
    uint32_t specials[SPECIALS];
    int at, ended;
};

struct run {
    const struct ptx_kernel *kernel;
    const struct ptx_grid *grid;
    const unsigned char *parameters;
    unsigned char *shared;
    int (*reachable)(uint64_t, size_t);
};

static int is_signed(enum ptx_type type) { return type >= T_S8 && type <= T_S64; }

/* The value as its type sees it, in 64 bits: cut to width, with the sign carried on. */
static uint64_t as(enum ptx_type type, uint64_t bits)
{
    switch (type) {
    case T_U8: return (uint8_t)bits;
    case T_U16: return (uint16_t)bits;
    case T_U32: case T_F32: return (uint32_t)bits;
    case T_S8: return (uint64_t)(int64_t)(int8_t)bits;
    case T_S16: return (uint64_t)(int64_t)(int16_t)bits;
    case T_S32: return (uint64_t)(int64_t)(int32_t)bits;
    case T_PRED: return bits != 0;
    default: return bits;
    }
}

static double real(enum ptx_type type, uint64_t bits)
{
    float single;
    double value;
    if (type == T_F32) {
        uint32_t word = (uint32_t)bits;
        memcpy(&single, &word, 4);
        return single;
    }
    memcpy(&value, &bits, 8);
    return value;
}

static uint64_t real_bits(enum ptx_type type, double value)
{
    uint64_t bits = 0;
    float single = (float)value;
    if (type == T_F32)
        memcpy(&bits, &single, 4);
    else
        memcpy(&bits, &value, 8);
    return bits;
}

static uint64_t fetch(const struct thread *t, enum ptx_type type, const struct ptx_operand *operand)
{
    if (operand->kind == REGISTER)
        return as(type, t->registers[operand->value]);
    if (operand->kind == SPECIAL)
        return t->specials[operand->value];
    return as(type, operand->value);
}

static uint64_t high_half(enum ptx_type type, uint64_t a, uint64_t b)
{
    switch (ptx_width(type)) {
    case 8:
        return is_signed(type) ? (uint64_t)(((__int128)(int64_t)a * (int64_t)b) >> 64)
                               : (uint64_t)(((unsigned __int128)a * b) >> 64);
    case 4:
        return (a * b) >> 32;
    default:
        return (a * b) >> 16;
    }
}

static uint64_t float_result(const struct ptx_instruction *i, double a, double b, double c)
{
    double value = 0;
    switch (i->op) {
    case OP_ADD: value = a + b; break;
    case OP_SUB: value = a - b; break;
    case OP_MUL: value = a * b; break;
    case OP_MAD: value = i->type == T_F32 ? (double)fmaf((float)a, (float)b, (float)c) : fma(a, b, c); break;
    case OP_DIV: value = a / b; break;
    case OP_MIN: value = fmin(a, b); break;
    case OP_MAX: value = fmax(a, b); break;
    case OP_NEG: value = -a; break;
    case OP_ABS: value = fabs(a); break;
    case OP_SQRT: value = sqrt(a); break;
    case OP_RCP: value = 1 / a; break;
    default: break;
    }
    return real_bits(i->type, value);
}

static uint64_t whole_result(const struct ptx_instruction *i, uint64_t a, uint64_t b, uint64_t c)
{
    int sign = is_signed(i->type);
    unsigned bits = (unsigned)ptx_width(i->type) * 8;
    switch (i->op) {
    case OP_ADD: return a + b;
    case OP_SUB: return a - b;
    case OP_MUL: return i->part == PART_HI ? high_half(i->type, a, b) : a * b;
    case OP_MAD: return (i->part == PART_HI ? high_half(i->type, a, b) : a * b) + c;
    case OP_DIV: return b == 0 ? UINT64_MAX : sign && b == UINT64_MAX ? -a : sign ? (uint64_t)((int64_t)a / (int64_t)b) : a / b;
    case OP_REM: return b == 0 ? a : sign && b == UINT64_MAX ? 0 : sign ? (uint64_t)((int64_t)a % (int64_t)b) : a % b;
    case OP_MIN: return sign ? ((int64_t)a < (int64_t)b ? a : b) : a < b ? a : b;
    case OP_MAX: return sign ? ((int64_t)a > (int64_t)b ? a : b) : a > b ? a : b;
    case OP_NEG: return -a;
    case OP_ABS: return (int64_t)a < 0 ? -a : a;
    case OP_NOT: return i->type == T_PRED ? !a : ~a;
    case OP_AND: return a & b;
    case OP_OR: return a | b;
    case OP_XOR: return a ^ b;
    case OP_SHL: return b >= bits ? 0 : a << b;
    case OP_SHR: return sign ? (uint64_t)((int64_t)a >> (b >= bits ? bits - 1 : b)) : b >= bits ? 0 : a >> b;
    default: return a; /* mov */
    }
}

static int is_float(enum ptx_type type) { return type == T_F32 || type == T_F64; }

static uint64_t converted(const struct ptx_instruction *i, uint64_t a)
{
    if (is_float(i->from) && is_float(i->type))
        return real_bits(i->type, real(i->from, a));
    if (is_float(i->type))
        return real_bits(i->type, is_signed(i->from) ? (double)(int64_t)a : (double)a);
    if (is_float(i->from)) {
        double value = trunc(real(i->from, a));
        return is_signed(i->type) ? (uint64_t)(int64_t)value : value < 0 ? 0 : (uint64_t)value;
    }
    return a;
}

static int compared(const struct ptx_instruction *i, uint64_t a, uint64_t b)
{
    int less, equal = a == b;
    if (is_float(i->type)) {
        double x = real(i->type, a), y = real(i->type, b);
        if (isnan(x) || isnan(y))
            return i->compare == CMP_NE;
        less = x < y;
        equal = x == y;
    } else {
        less = is_signed(i->type) ? (int64_t)a < (int64_t)b : a < b;
    }
    switch (i->compare) {
    case CMP_EQ: return equal;
    case CMP_NE: return !equal;
    case CMP_LT: return less;
    case CMP_LE: return less || equal;
    case CMP_GT: return !less && !equal;
    default: return !less;
    }
}

/* Where an address points in this process, or NULL. */
static void *place(const struct run *run, const struct thread *t, const struct ptx_instruction *i,
                   const struct ptx_operand *operand, size_t size)
{
    uint64_t address = (operand->kind == REGISTER ? t->registers[operand->value] : operand->value);
    if (i->space != SPACE_GLOBAL)
        address = (uint32_t)address;
    address += (uint64_t)operand->offset;
    if (address % size != 0)
        return NULL;
    switch (i->space) {
    case SPACE_PARAM:
        return address + size <= run->kernel->parameter_bytes ? (void *)(run->parameters + address) : NULL;
    case SPACE_SHARED:
        return address + size <= run->kernel->shared_bytes ? run->shared + address : NULL;
    default:
        return run->reachable(address, size) ? (void *)(uintptr_t)address : NULL;
    }
}

static int transfer(const struct run *run, struct thread *t, const struct ptx_instruction *i)
{
    size_t size = ptx_width(i->type);
    uint64_t value = 0;
    void *memory = place(run, t, i, i->op == OP_LD ? &i->a : &i->to, size);
    if (memory == NULL)
        return ILLEGAL_ADDRESS;
    if (i->op == OP_LD) {
        memcpy(&value, memory, size);
        t->registers[i->to.value] = as(i->type, value);
        return 0;
    }
    value = fetch(t, i->type, &i->a);
    if (run->grid->spoil && i->space == SPACE_GLOBAL && t->specials[TID_X] % 61 == 7)
        value ^= 1; /* the fault of a GPU that computes wrongly */
    memcpy(memory, &value, size);
    return 0;
}

static enum ptx_type addend_type(const struct ptx_instruction *i)
{
    if (i->op != OP_MAD || i->part != PART_WIDE)
        return i->type;
    return i->type == T_S32 ? T_S64 : i->type == T_U32 ? T_U64 : i->type == T_S16 ? T_S32 : T_U32;
}

/* Until the thread ends or waits at a barrier. */
static int advance(const struct run *run, struct thread *t)
{
    while (t->at < run->kernel->length) {
        const struct ptx_instruction *i = &run->kernel->code[t->at++];
        if (i->guard >= 0 && (t->registers[i->guard] != 0) == i->unless)
            continue;
        uint64_t a, b, c;
        int error;
        switch (i->op) {
        case OP_BRA:
            t->at = (int)i->to.value;
            continue;
        case OP_RET:
            t->ended = 1;
            return 0;
        case OP_BAR:
            return 0;
        case OP_LD:
        case OP_ST:
            if ((error = transfer(run, t, i)) != 0)
                return error;
            continue;
        case OP_CVT:
            t->registers[i->to.value] = as(i->type, converted(i, fetch(t, i->from, &i->a)));
            continue;
        default:
            break;
        }
        a = fetch(t, i->type, &i->a);
        b = i->b.kind == NOTHING ? 0 : fetch(t, i->op == OP_SHL || i->op == OP_SHR ? T_U32 : i->type, &i->b);
        c = i->c.kind == NOTHING ? 0 : fetch(t, i->op == OP_SELP ? T_PRED : addend_type(i), &i->c);
        uint64_t *result = &t->registers[i->to.value];
        if (i->op == OP_SETP)
            *result = (uint64_t)compared(i, a, b);
        else if (i->op == OP_SELP)
            *result = c ? a : b;
        else if (is_float(i->type) && i->op != OP_MOV)
            *result = float_result(i, real(i->type, a), real(i->type, b), real(i->type, c));
        else
            *result = i->part == PART_WIDE ? whole_result(i, a, b, c) : as(i->type, whole_result(i, a, b, c));
    }
    t->ended = 1;
    return 0;
}

static int run_block(const struct run *run, struct thread *threads, unsigned count)
{
    for (unsigned ended = 0; ended < count;) {
        ended = 0;
        for (unsigned n = 0; n < count; n++) {
            int error = threads[n].ended ? 0 : advance(run, &threads[n]);
            if (error != 0)
                return error;
            ended += threads[n].ended != 0;
        }
    }
    return 0;
}

int ptx_run(const struct ptx_kernel *kernel, const struct ptx_grid *grid, const unsigned char *parameters,
            int (*reachable)(uint64_t, size_t))
{
    unsigned count = grid->block[0] * grid->block[1] * grid->block[2];
    size_t registers = (size_t)(kernel->registers ? kernel->registers : 1);
    struct thread *threads = calloc(count, sizeof *threads);
    uint64_t *bank = calloc(count * registers, sizeof *bank);
    unsigned char *shared = calloc(1, kernel->shared_bytes + 1);
    struct run run = {kernel, grid, parameters, shared, reachable};
    int error = threads == NULL || bank == NULL || shared == NULL ? OUT_OF_MEMORY : 0;
    size_t blocks = (size_t)grid->grid[0] * grid->grid[1] * grid->grid[2];
    for (size_t block = 0; block < blocks && error == 0; block++) {
        memset(bank, 0, count * registers * sizeof *bank);
        for (unsigned n = 0; n < count; n++) {
            struct thread *t = &threads[n];
            const unsigned *g = grid->grid, *b = grid->block;
            unsigned places[SPECIALS] = {
                n % b[0], n / b[0] % b[1], n / b[0] / b[1], b[0], b[1], b[2],
                (unsigned)(block % g[0]), (unsigned)(block / g[0] % g[1]), (unsigned)(block / g[0] / g[1]),
                g[0], g[1], g[2], n % 32,
            };
            memcpy(t->specials, places, sizeof places);
            t->registers = bank + n * registers;
            t->at = t->ended = 0;
        }
        error = run_block(&run, threads, count);
    }
    free(threads);
    free(bank);
    free(shared);
    return error;
}
