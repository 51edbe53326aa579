/* One process, with the output and exit codes of cuda-checkpoint. */
#ifndef CRYO_SINGLE_H
#define CRYO_SINGLE_H

#include "options.h"

/* Run the verb; return the exit status. */
int single(const struct cuda *cuda, const struct options *options);

#endif
