/* Many processes at once: one start of the driver, then lock all, checkpoint all; or the way back.
 *
 * Only the processes that were named are moved. What else is found with CUDA state is reported, so that
 * the caller can record it before it asks for that one too.
 */
#ifndef CRYO_BATCH_H
#define CRYO_BATCH_H

#include "options.h"

/* Of what is printed; the reader refuses any other. */
enum { BATCH_VERSION = 1 };

int batch(struct options *options);

/* Load the driver and begin to use it. Return 0, or the exit status of a tool that did not run. */
int begin_driver(struct cuda *cuda, long long deadline_ms, const char **why);

#endif
