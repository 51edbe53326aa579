/* Old names of the C library's symbols, so that a container older than this build can run it.
 *
 * glibc 2.34 moved these functions into libc.so.6 under a new version and kept the old one; a
 * program that asks for the old one runs with both. libcuda.so.1 itself needs glibc, so a
 * container with another C library has no CUDA, and is not supported here.
 */
#ifndef CRYO_OLD_H
#define CRYO_OLD_H

#include <features.h>

#if defined(__GLIBC__) && defined(__x86_64__)
#define CRYO_OLD_GLIBC 1
__asm__(".symver dlopen, dlopen@GLIBC_2.2.5");
__asm__(".symver dlsym, dlsym@GLIBC_2.2.5");
__asm__(".symver dlerror, dlerror@GLIBC_2.2.5");
__asm__(".symver pthread_create, pthread_create@GLIBC_2.2.5");
__asm__(".symver __libc_start_main, __libc_start_main@GLIBC_2.2.5");
#endif

#endif
