module github.com/solo-os/solo/examples

go 1.26.0

require github.com/solo-os/solo/sdk v0.1.0
