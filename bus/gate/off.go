//go:build gatesoff

package gate

const enforced = false
