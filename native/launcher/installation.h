/* The installation that this program is a part of. */
#ifndef CRYO_INSTALLATION_H
#define CRYO_INSTALLATION_H

#include <limits.h>
#include <stdbool.h>

struct installation {
	/* The same program in Python. */
	char script[PATH_MAX];
	/* The name of the link below RUN_FOLDER that leads to the fork server; empty if unknown. */
	char link[32];
};

/* Find both; false if the script is nowhere. */
bool installation_find(struct installation *found);

#endif
