module cryoshim.example/server

go 1.26
