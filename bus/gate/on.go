//go:build !gatesoff

package gate

// enforced is false only in builds with tag gatesoff, made by the test which shows that the
// server alone keeps holders apart.
const enforced = true
