// Package deploy starts what a deployment of reactor consists of, for demo, bench and chaos:
// servers, instances that are programs of their own, and the wait until the instances share
// the table.
package deploy
