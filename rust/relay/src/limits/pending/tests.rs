//! The choice of the connection to evict, and its cost.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};

use super::{Choice, GRACE, Pending, Phase};
use crate::id::ConnId;
use crate::sim::Seeded;

fn id(n: u64) -> ConnId {
    ConnId::from_u64(n)
}

fn ip(n: u32) -> Option<IpAddr> {
    Some(Ipv4Addr::from(n).into())
}

/// The ids in the order in which they are evicted at `now`.
fn evicted(pending: &mut Pending, now: u64) -> Vec<u64> {
    std::iter::from_fn(|| pending.evict(now)).map(ConnId::as_u64).collect()
}

#[test]
fn the_longest_silent_one_goes_first_and_none_before_its_grace_is_over() {
    let mut pending = Pending::default();
    let first = pending.enter(id(1), ip(1), 0);
    pending.enter(id(2), ip(1), 1_000);
    pending.enter(id(3), ip(1), 5_000);
    assert_eq!(pending.choose(GRACE - 1), Choice::Wait(GRACE));
    pending.note_input(first, id(1), 100); // too early to count
    assert_eq!(pending.choose(GRACE), Choice::Evict(first));
    pending.note_input(first, id(1), 4_000);
    assert_eq!(evicted(&mut pending, 5_000), [2, 1]);
    assert_eq!(pending.choose(5_000), Choice::Wait(5_000 + GRACE));
    assert_eq!(evicted(&mut pending, 5_000 + GRACE), [3]);
    assert_eq!(pending.choose(9_000), Choice::Wait(crate::shard::conn::NEVER));
}

#[test]
fn connections_before_the_end_of_tls_go_first_and_connections_that_wait_for_us_last() {
    let mut pending = Pending::default();
    let indices: Vec<_> = (1..=4).map(|n| pending.enter(id(n), ip(1), 0)).collect();
    pending.step(indices[0], id(1), Phase::Served, 10);
    pending.step(indices[2], id(3), Phase::Waiting, 10);
    pending.step(indices[1], id(2), Phase::Waiting, 20);
    pending.note_input(indices[3], id(4), 30_000);
    assert_eq!(evicted(&mut pending, 40_000), [4, 3, 2, 1]);
}

#[test]
fn progress_renews_the_grace_of_a_connection() {
    let mut pending = Pending::default();
    let index = pending.enter(id(1), ip(1), 0);
    pending.step(index, id(1), Phase::Waiting, GRACE - 1);
    assert_eq!(pending.choose(GRACE), Choice::Wait(2 * GRACE - 1));
}

#[test]
fn a_flood_from_one_address_costs_no_other_address_its_connections() {
    let mut pending = Pending::default();
    for n in 0..30 {
        pending.enter(id(1_000 + n), ip(n as u32), 0); // the most silent ones of all
    }
    for n in 0..500 {
        pending.enter(id(1 + n), ip(77), 1_000 + n);
    }
    for n in 0..400 {
        assert_eq!(pending.evict(60_000), Some(id(1 + n)));
        pending.enter(id(2_000 + n), ip(77), 60_000);
    }
}

#[test]
fn many_real_clients_of_one_address_survive_a_flood_from_many_addresses() {
    let mut pending = Pending::default();
    for n in 0..9_800 {
        pending.enter(id(1 + n), ip(n as u32), n);
    }
    for n in 0..200 {
        pending.enter(id(20_000 + n), ip(0x0a00_0001), 12_000);
    }
    // However many connections come, those that have been silent for longer than a round trip go first.
    for n in 0..9_000 {
        assert_eq!(
            pending.evict(12_000 + GRACE + 800),
            Some(id(1 + n)),
            "not a client that is still coming in"
        );
        pending.enter(id(30_000 + n), ip(100_000 + n as u32), 12_000 + GRACE + 800);
    }
}

#[test]
fn connections_of_a_proxy_are_separate_networks_until_it_names_their_addresses() {
    let mut pending = Pending::default();
    let through: Vec<_> = (0..64).map(|n| pending.enter(id(1 + n), None, 0)).collect();
    for n in 0..64 {
        pending.enter(id(100 + n), ip(1), 10 + n);
    }
    // 128 connections of 65 networks have a share of two; each of the proxy's networks has one.
    assert_eq!(pending.evict(60_000), Some(id(1)), "a share of one is what each has");
    for (n, index) in through.iter().enumerate().skip(1) {
        pending.come_from(*index, id(1 + n as u64), Ipv4Addr::from(2 + n as u32 / 32).into());
    }
    pending.enter(id(300), ip(9), 0);
    assert_eq!(pending.evict(60_000), Some(id(2)), "31 of one address are above a share");
    for n in 0..31 {
        assert_ne!(pending.evict(60_000), Some(id(300)), "after {n}");
    }
}

#[test]
fn the_id_of_a_removed_connection_has_no_effect_on_its_reused_slot() {
    let mut pending = Pending::default();
    let index = pending.enter(id(1), ip(1), 0);
    assert_eq!(pending.evict(GRACE), Some(id(1)));
    assert_eq!(pending.enter(id(2), ip(2), GRACE), index, "the place is used again");
    assert!(!pending.leave(index, id(1)));
    pending.step(index, id(1), Phase::Served, 9_000);
    pending.note_input(index, id(1), 9_000);
    pending.come_from(index, id(1), Ipv4Addr::LOCALHOST.into());
    assert_eq!(pending.choose(2 * GRACE), Choice::Evict(index));
    assert!(pending.leave(index, id(2)));
    assert_eq!((pending.len(), pending.networks.len(), pending.by_origin.len()), (0, 0, 0));
}

/// The expected contents of the table, unordered.
struct Model(HashMap<u64, (Option<IpAddr>, Phase, u64)>);

impl Model {
    /// The longest-silent time and lowest phase among the networks above their share; `None` if there is none.
    fn best(&self, now: u64) -> Option<(Phase, u64)> {
        let mut sizes: HashMap<IpAddr, usize> = HashMap::new();
        let mut alone = 0;
        for (origin, ..) in self.0.values() {
            match origin {
                Some(origin) => *sizes.entry(*origin).or_default() += 1,
                None => alone += 1,
            }
        }
        let share = (self.0.len() / (sizes.len() + alone + 1)).max(1);
        let least = 1 << share.ilog2();
        let above = self.0.values().filter(|(origin, ..)| origin.map_or(1, |origin| sizes[&origin]) >= least);
        above.filter(|(.., since)| *since <= now).map(|(_, phase, since)| (*phase, *since)).min()
    }
}

#[test]
fn the_choice_equals_that_of_a_full_scan() {
    for seed in 0..40 {
        let mut seeded = Seeded::new(seed);
        let (mut pending, mut model) = (Pending::default(), Model(HashMap::new()));
        let mut there: Vec<(u32, u64)> = Vec::new();
        let mut now = 0;
        for name in 1..=600 {
            now += seeded.below(400) as u64;
            match seeded.below(8) {
                0..=3 => {
                    let origin = ip(seeded.below(6).pow(2) as u32).filter(|_| seeded.below(5) > 0);
                    there.push((pending.enter(id(name), origin, now), name));
                    model.0.insert(name, (origin, Phase::Opening, now + GRACE));
                }
                4 if !there.is_empty() => {
                    let (index, name) = there.swap_remove(seeded.below(there.len()));
                    assert_eq!(pending.leave(index, id(name)), model.0.remove(&name).is_some());
                }
                5 if !there.is_empty() => {
                    let (index, name) = there[seeded.below(there.len())];
                    let phase = [Phase::Opening, Phase::Waiting, Phase::Served][seeded.below(3)];
                    pending.step(index, id(name), phase, now);
                    model.0.entry(name).and_modify(|known| (known.1, known.2) = (phase, now + GRACE));
                }
                6 if !there.is_empty() => {
                    let (index, name) = there[seeded.below(there.len())];
                    pending.note_input(index, id(name), now);
                    model.0.entry(name).and_modify(|known| known.2 = known.2.max(now));
                }
                _ => {
                    let best = model.best(now);
                    let gone =
                        pending.evict(now).map(|id| model.0.remove(&id.as_u64()).expect("it was there"));
                    assert_eq!(gone.map(|(_, phase, since)| (phase, since)), best, "seed {seed}, at {name}");
                }
            }
            assert_eq!(pending.len(), model.0.len());
        }
    }
}

#[test]
fn a_choice_among_a_hundred_thousand_addresses_does_not_scan_all_of_them() {
    let mut pending = Pending::default();
    let many = 100_000;
    for n in 0..many {
        pending.enter(id(1 + n), ip(n as u32), n / 1_000);
    }
    // A scan of all of them for each choice would take hours.
    for n in 0..many {
        assert_eq!(pending.evict(60_000), Some(id(1 + n)));
        pending.enter(id(1 + many + n), ip((many + n) as u32), 60_000);
    }
    assert_eq!(pending.len(), 100_000);
}
