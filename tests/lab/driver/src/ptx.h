/* A small interpreter for PTX: enough for elementwise kernels and block-wide reductions, and nothing that it does not
 * understand is ever skipped: such a module does not load. */
#ifndef PTX_H
#define PTX_H

#include <stddef.h>
#include <stdint.h>

enum ptx_type { T_NONE, T_U8, T_U16, T_U32, T_U64, T_S8, T_S16, T_S32, T_S64, T_F32, T_F64, T_PRED };
enum ptx_op {
    OP_MOV, OP_LD, OP_ST, OP_ADD, OP_SUB, OP_MUL, OP_MAD, OP_DIV, OP_REM, OP_MIN, OP_MAX, OP_NEG, OP_ABS, OP_NOT,
    OP_AND, OP_OR, OP_XOR, OP_SHL, OP_SHR, OP_SETP, OP_SELP, OP_CVT, OP_SQRT, OP_RCP, OP_BRA, OP_RET, OP_BAR
};
enum ptx_part { PART_LO, PART_HI, PART_WIDE };
enum ptx_compare { CMP_EQ, CMP_NE, CMP_LT, CMP_LE, CMP_GT, CMP_GE };
enum ptx_space { SPACE_GLOBAL, SPACE_PARAM, SPACE_SHARED };
enum ptx_special { TID_X, TID_Y, TID_Z, NTID_X, NTID_Y, NTID_Z, CTAID_X, CTAID_Y, CTAID_Z, NCTAID_X, NCTAID_Y,
                   NCTAID_Z, LANEID, SPECIALS };

struct ptx_operand {
    enum { NOTHING, REGISTER, VALUE, SPECIAL, LABEL } kind;
    uint64_t value; /* the register, the bits, the special register, or the instruction jumped to */
    int64_t offset; /* of an address */
};

struct ptx_instruction {
    enum ptx_op op;
    enum ptx_type type, from; /* from: the source type of cvt */
    enum ptx_part part;
    enum ptx_compare compare;
    enum ptx_space space;
    int guard, unless; /* predicate register or -1; run when it is false */
    struct ptx_operand to, a, b, c;
};

struct ptx_parameter { char name[128]; size_t offset, size; };

struct ptx_kernel {
    char name[256];
    struct ptx_parameter *parameters;
    int parameter_count;
    size_t parameter_bytes, shared_bytes;
    struct ptx_instruction *code;
    int length, registers;
    void *owner; /* the module it was loaded in */
    struct ptx_kernel *next;
};

enum { PTX_BAD = 218, PTX_TOO_NEW = 222 };

/* All kernels of the text, or NULL with the code and the reason ("line N: ..."). */
struct ptx_kernel *ptx_load(const char *text, int most_version, int capability, int *code, char reason[256]);
void ptx_free(struct ptx_kernel *kernels);

struct ptx_grid { unsigned grid[3], block[3]; int spoil; };
int ptx_run(const struct ptx_kernel *kernel, const struct ptx_grid *grid, const unsigned char *parameters,
            int (*reachable)(uint64_t address, size_t size)); /* 0, or the driver's error code */
size_t ptx_width(enum ptx_type type);

#endif
