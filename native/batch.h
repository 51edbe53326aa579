/* Batch mode: initialize the driver once, then lock and checkpoint all processes; or the reverse.
 *
 * Only the processes that were named are moved. Others found with CUDA state are reported, so that
 * the caller can record them before it names them too.
 */
#ifndef CRYO_BATCH_H
#define CRYO_BATCH_H

#include "options.h"

/* Version of the output; the reader rejects any other. */
enum { BATCH_VERSION = 1 };

int batch(struct options *options);

/* Load and initialize the driver. Return 0, or the exit status of a tool that did not run. */
int begin_driver(struct cuda *cuda, long long deadline_ms, const char **why);

#endif
