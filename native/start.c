/* The entry point, in place of the C library's own start files: those of glibc 2.34 and newer
 * need a symbol that older versions do not have. */

#include "old.h"

#ifdef CRYO_OLD_GLIBC
/* By the x86-64 ABI: rdx is the loader's exit function, the stack holds argc and argv. */
__asm__(".text\n"
	".globl _start\n"
	".type _start, @function\n"
	"_start:\n"
	"	xorl %ebp, %ebp\n"
	"	movq %rdx, %r9\n"
	"	popq %rsi\n"
	"	movq %rsp, %rdx\n"
	"	andq $-16, %rsp\n"
	"	pushq %rax\n"
	"	pushq %rsp\n"
	"	xorl %r8d, %r8d\n"
	"	xorl %ecx, %ecx\n"
	"	movq main@GOTPCREL(%rip), %rdi\n"
	"	call *__libc_start_main@GOTPCREL(%rip)\n"
	"	hlt\n");
#else
typedef int nothing_to_do_here;
#endif
