/* The device map of a restore: OLD=NEW,... by UUID, as cuda-checkpoint takes it. */
#ifndef CRYO_MAP_H
#define CRYO_MAP_H

#include <stdbool.h>

#include "work.h"

/* Parse a map; false if it is not one. */
bool map_parse(const char *text, struct device_map *map);

#endif
