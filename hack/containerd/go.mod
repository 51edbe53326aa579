// Not a module of this project: it pins what hack/tools builds containerd 2.4 from.
module cryoshim.invalid/containerd

go 1.26.6

require github.com/containerd/containerd/v2 v2.4.2
