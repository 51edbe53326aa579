/* Names that shim/entry/shimbin also has, in paths.py and call.py, and shim/bundle.py. */
#ifndef CRYO_NAMES_H
#define CRYO_NAMES_H

#define SCRIPT "containerd-shim-cryo-v1-python"
/* Tests have another one. */
#ifndef RUN_FOLDER
#define RUN_FOLDER "/run/cryo"
#endif
#define LINK_PREFIX "launcher-"
/* The variable with the link's name, for the script. */
#define LINK_VARIABLE "CRYO_LAUNCHER_LINK"
/* The first bytes of a request and of an answer. */
#define REQUEST_MARK "CRYO-RUN"
#define ANSWER_MARK "CRYO-RAN"
/* Files in containerd's bundle: the address of its shim, and the link to the task's folder. */
#define ADDRESS_FILE "address"
#define ADDRESS_SCHEME "unix://"
#define BUNDLE_LINK "cryo"

#endif
