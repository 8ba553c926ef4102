// Package deploy holds no code: its tests hold the files of this folder, docker-compose.yml and the
// Dockerfile against the program that they start.
package deploy
