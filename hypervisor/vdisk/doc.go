// Package vdisk reads the formats that virtual disks are kept in, from any
// source of bytes and without asking a hypervisor.
package vdisk
