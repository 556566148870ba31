/* SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
 *
 * Places that the loader fills in: it looks for these numbers in the instructions, and refuses a program in which it does
 * not find every one that it expects. So the compiled program needs no relocations, and the loader no ELF reader. */
#pragma once

#include "uapi.h"

/* A map by its number in `program.rs`. Assembler, so that the compiler cannot compute one from another. */
#define MAP(number)                                                                          \
	({                                                                                   \
		void *map;                                                                   \
		asm volatile("%0 = " number " ll" : "=r"(map));                              \
		map;                                                                         \
	})

#define ENDPOINTS MAP("0x6e706d6170000000")
#define ADDRESSES MAP("0x6e706d6170000001")
#define NETWORKS MAP("0x6e706d6170000002")
#define POLICIES MAP("0x6e706d6170000003")
#define WORDS MAP("0x6e706d6170000004")
#define PORTS MAP("0x6e706d6170000005")
#define SLOT MAP("0x6e706d6170000006")
#define CHECKED MAP("0x6e706d6170000007")

/* A function of the kernel, by its number in `program.rs`. */
static long (*bpf_dynptr_from_skb)(void *skb, __u64 flags, struct bpf_dynptr *to) = (void *)0x6e700001;

/* The number of the ruleset: no two in one network namespace have the same. 0 is none: connections that are open stay
 * open. */
#define GENERATION                                                                           \
	({                                                                                   \
		__u64 generation;                                                            \
		asm volatile("%0 = 0x6e7067656e000000 ll" : "=r"(generation));               \
		generation;                                                                  \
	})

/* What connection tracking knows of a packet: a pointer, and its state in the lowest three bits. 0x7ee0 stands for the
 * field's offset in the running kernel. */
#define CONNTRACK(skb)                                                                       \
	({                                                                                   \
		__u64 conntrack;                                                             \
		asm volatile("%0 = *(u64 *)(%1 + 0x7ee0)" : "=r"(conntrack) : "r"(skb));     \
		conntrack;                                                                   \
	})
