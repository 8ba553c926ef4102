// Package deploy starts the parts of a deployment of reactor, for demo, bench and chaos: the
// servers, and the instances as separate processes. It also waits until the instances share the
// table.
package deploy
