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

#define HOSTS MAP("0x6e706d6170000000")
#define NETWORKS MAP("0x6e706d6170000001")
#define PODS MAP("0x6e706d6170000002")
#define POLICIES MAP("0x6e706d6170000003")
#define WORDS MAP("0x6e706d6170000004")
#define PORTS MAP("0x6e706d6170000005")
#define RANGES MAP("0x6e706d6170000006")
#define CHECKED MAP("0x6e706d6170000007")
#define COUNTS MAP("0x6e706d6170000008")
#define DENIED MAP("0x6e706d6170000009")
#define RATE MAP("0x6e706d617000000a")
#define SLOT MAP("0x6e706d617000000b")
#define HOST_ROWS MAP("0x6e706d6170000020")

/* Those of the front end at interfaces. */
#define FLOWS MAP("0x6e706d6170000030")
#define FRAGMENTS MAP("0x6e706d6170000031")
#define OWN MAP("0x6e706d6170000032")
#define SERVICES MAP("0x6e706d6170000033")
#define ALONE MAP("0x6e706d6170000034")
#define WORK MAP("0x6e706d6170000036")
#define PLACES MAP("0x6e706d6170000037")

/* The one value of the map of this number, which the program reads without a look-up. */
#define STATE                                                                                \
	({                                                                                   \
		const volatile struct state *state;                                          \
		asm volatile("%0 = 0x6e7076616c00000c ll" : "=r"(state));                    \
		state;                                                                       \
	})

/* As above, of the front end at interfaces. */
#define TIMES                                                                                \
	({                                                                                   \
		const volatile struct times *times;                                          \
		asm volatile("%0 = 0x6e7076616c000035 ll" : "=r"(times));                    \
		times;                                                                       \
	})

/* Likewise: numbers that nobody can know who chooses addresses and ports, kept as long as what is known of connections. */
#define SECRET                                                                               \
	({                                                                                   \
		const volatile __u64 *secrets;                                               \
		asm volatile("%0 = 0x6e7076616c000038 ll" : "=r"(secrets));                  \
		secrets;                                                                     \
	})

/* A function of the kernel, by its number in `program.rs`. */
static long (*bpf_dynptr_from_skb)(void *skb, __u64 flags, struct bpf_dynptr *to) = (void *)0x6e700001;

/* What connection tracking knows of a packet: a pointer, and its state in the lowest three bits. 0x7ee0 stands for the
 * field's offset in the running kernel. */
#define CONNTRACK(skb)                                                                       \
	({                                                                                   \
		__u64 conntrack;                                                             \
		asm volatile("%0 = *(u64 *)(%1 + 0x7ee0)" : "=r"(conntrack) : "r"(skb));     \
		conntrack;                                                                   \
	})

/* How long a packet is. 0x7ee1 stands for the field's offset, as above. */
#define LENGTH(skb)                                                                          \
	({                                                                                   \
		__u32 length;                                                                \
		asm volatile("%0 = *(u32 *)(%1 + 0x7ee1)" : "=r"(length) : "r"(skb));        \
		length;                                                                      \
	})
