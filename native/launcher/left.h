/* What is left of a shim in containerd's bundle. */
#ifndef CRYO_LEFT_H
#define CRYO_LEFT_H

#include <stdbool.h>

/* Whether a `delete` with these arguments has certainly nothing to do, as after every Delete call:
 * the shim's address is in the bundle, and both its socket and the link to its folder are gone. */
bool nothing_left(char **words);

#endif
