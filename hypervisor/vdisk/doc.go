// Package vdisk reads the formats that virtual disks are kept in, from any
// source of bytes and without asking a hypervisor.
//
// A [Layout] maps one file's share of a disk: a plain file ([Flat]), a
// snapshot's delta ([OpenCOWD], [OpenSESparse]) or a sparse file of VMware's
// desktop products ([OpenSparse]). A [Chain] joins the layouts of a disk that
// is spread over several files, each holding what changed since the next one.
// Layouts and chains say where bytes are and leave reading them to the caller,
// who knows how to fetch many ranges well.
//
// A [Stream] decodes a disk that comes in one pass, as exports do.
//
// All formats are foreign input: tables are read when needed and in bounded
// memory, addresses are checked against the file before they are used, and
// what does not fit its format is a [FormatError], never a guess.
package vdisk
