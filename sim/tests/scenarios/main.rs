//! The built `penstock.sys` between machines, one file per scenario, each with its drawing on top.
//!
//! | file | what goes on |
//! |---|---|
//! | [`first_traffic`] | the shortest: a handshake, pings, a file |
//! | [`first_packets`] | what waits for a session leaves before what comes after |
//! | [`handshake`] | both ways, at once, with preshared keys |
//! | [`data`] | both families inside and outside, sizes around the padding and the MTU |
//! | [`sessions`] | rekey, expiry, silence and keepalives by the clock |
//! | [`policy`], [`policy_change`] | what an administrator sets, and sets wrongly; and sets under load |
//! | [`roaming`] | a NAT that rebinds |
//! | [`outer_marks`] | ECN and DSCP on the wire, how long datagrams are, and those that a link is too small for |
//! | [`outer_routing`] | routes that are missing, that lead into the tunnel, that change |
//! | [`path_mtu`] | what is longer than the way takes, and what TCP announces |
//! | [`weather`] | loss, delay, reordering, duplicates |
//! | [`port_change`], [`adapter_state`], [`peer_removal`], [`lost_sockets`] | changes under load |
//! | [`two_adapters`], [`dead_peers`] | several tunnels, many peers |
//! | [`simd_tiers`] | each tier of the AEAD, and that registers not saved are found out |
//! | [`back_pressure`] | the network keeps what it was given |
//! | [`faults`] | one thing breaks under a flow at full pace on four CPUs, or comes in the middle of a chunk |
//! | [`refusals`] | each call that Windows may refuse is refused, in each phase of an adapter's life |
//! | [`clocks`] | system time jumps |
//! | [`flood`] | a million initiations a second, and forged data: what is dropped and why, and what goes on meanwhile |
//! | [`spreading`] | one flow on several CPUs, in order |
//! | [`scaling_set`] | which CPUs those are: groups, nodes, unlike cores, and what policy says |
//! | [`segmentation`] | packets of up to 64 KiB, cut by the driver or before it: the same bytes |
//! | [`receive_checksums`] | what is said of checksums is so, or nothing is |
//! | [`receive_queues`] | several of them, and each flow by the one that the stack says |
//! | [`outer_offloads`] | several datagrams as one at the sockets, wanted, refused and missing |
//! | [`zero_copy`] | a byte of payload is written once, each way, by every path |
//! | [`callouts`] | taken or let pass: the same bytes, and every reason counted |
//! | [`allocations`] | what a datagram costs in allocations, once everything is warm |
//! | [`filter_engine`] | BFE stops, starts, refuses |
//! | [`filter_clash`] | others' filters decide first, veto, forbid the port; others' objects have our keys |
//! | [`both_paths`] | replayed, forged, cut, misrouted, and a peer that moves, by either path |
//! | [`injection`] | either shape of list, failing, withheld |
//! | [`neighbour`] | somebody else's callout before ours |
//! | [`clones`] | it clones what comes and goes, and puts the clones back |
//! | [`loopback`] | what is sent to the same machine, and to itself |
//! | [`held`] | a CPU has no time for DPCs: rings fill, and bounds hold |
//! | [`shapes`] | lists in single bytes, in fragments, coalesced rightly and wrongly |
//! | [`firewall`] | a flow that the firewall must not forget |
//! | [`nic_buffers`] | the network card's buffers are few, withheld, or all out |
//! | [`parts`] | what CPUs and queues counted adds up |
//! | [`capture`] | packets as a trace has them, and who may have one |
//! | [`debugger`], [`recipes`] | what WinDbg's script shows of a machine, and finds by it |
//! | [`load_unload`] | a hundred times, and nothing left |
//!
//! Time is virtual, the machines are under the verifier, and each scenario ends with the sums of what was
//! counted and with nothing left behind ([`machines::finish`]).
#![cfg(all(target_arch = "x86_64", target_os = "linux"))]

mod adapter_state;
mod allocations;
mod back_pressure;
mod both_paths;
mod callouts;
mod capture;
mod clocks;
mod clones;
mod data;
mod dead_peers;
mod debugger;
mod faults;
mod filter_clash;
mod filter_engine;
mod firewall;
mod first_packets;
mod first_traffic;
mod flight_recorder;
mod flood;
mod handshake;
mod held;
mod injection;
mod life_cycle;
mod load_unload;
mod loopback;
mod lost_sockets;
mod neighbour;
mod nic_buffers;
mod outer_marks;
mod outer_offloads;
mod outer_routing;
mod parts;
mod path_mtu;
mod peer_removal;
mod policy;
mod policy_change;
mod port_change;
mod receive_checksums;
mod receive_queues;
mod recipes;
mod refusals;
mod roaming;
mod scaling_set;
mod segmentation;
mod sessions;
mod shapes;
mod simd_tiers;
mod small_dumps;
mod spreading;
mod tracing;
mod two_adapters;
mod weather;
mod zero_copy;

#[path = "../machines/mod.rs"]
mod machines;
