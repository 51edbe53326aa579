/* One process, as cuda-checkpoint does it: its words and exit codes. */
#ifndef CRYO_SINGLE_H
#define CRYO_SINGLE_H

#include "options.h"

/* Do what was asked; return the exit status. */
int single(const struct cuda *cuda, const struct options *options);

#endif
