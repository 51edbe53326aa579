/* The device map of a restore: OLD=NEW,... by UUID, as cuda-checkpoint takes it. */
#ifndef CRYO_MAP_H
#define CRYO_MAP_H

#include <stdbool.h>

#include "work.h"

/* Read a map; false when it is none. */
bool map_parse(const char *text, struct device_map *map);

#endif
