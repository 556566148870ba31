/* SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
 *
 * What a word says. Included behind the program, which is what a section begins with. */
#pragma once

OUTLINE int passes(__u32 policy, __u32 class, const struct address *peer, struct packet *packet, __u32 guard)
{
	if (!policy)
		return 1;
	__u64 key = (__u64)policy << 32 | class_of(class, peer, packet->version);
	const volatile struct entry *found = find(WORDS, STATE->words_mask, key);
	__u64 word;
	if (found) {
		word = found->value;
	} else {
		__u64 *rest = bpf_map_lookup_elem(POLICIES, &policy);
		if (!rest)
			return 0;
		word = *rest;
	}
	__u32 counter = word >> 23 & 0x1fffff;
	if (packet->content == WITHOUT_PORT) {
		int others = word >> 16 & 1;
		count(packet, counter, others & packet->counted >> guard);
		return others;
	}
	__u32 at = place(packet->protocol);
	int verdict = word >> (17 + at) & 1;
	counter += 1 + at;
	if (word >> (20 + at) & 1) {
		if (packet->content == LATER_FRAGMENT) {
			/* Not every port passes (NP-116). */
			if (verdict)
				counter = guard;
			verdict = 0;
		} else {
			struct port_key ports = { .list = word >> 44, .protocol = packet->protocol };
			__u32 *row = 0;
			for (int bit = 0; bit < 16 && !row; bit++) {
				if (!(word >> bit & 1))
					continue;
				ports.prefix = 16 - bit;
				ports.port = packet->port & (0xffff << bit);
				row = bpf_map_lookup_elem(PORTS, &ports);
			}
			if (row) {
				verdict = *row & 1;
				counter += 3 - at + (*row >> 1);
			}
		}
	}
	count(packet, counter, verdict & packet->counted >> guard);
	return verdict;
}
