//! Work that would make one tick too long is spread over several.

use super::harness::{Over, Room, frame, from, key, packet, settings};
use crate::messages::{Command, Event, MemberAction};
use crate::shard::Settings;
use crate::sim::LoginKind;

const PRESENT: u8 = 0x09;
const HEALTH: u8 = 0x14;

/// A key that differs from all keys of the harness.
fn distant(n: u32) -> [u8; 32] {
    let mut distant = [0xdd; 32];
    distant[..4].copy_from_slice(&n.to_be_bytes());
    distant
}

#[test]
fn the_keys_of_an_ended_link_are_removed_some_each_tick_while_packets_flow() {
    let mut room = Room::with(Settings { mesh_max_keys: 100_000, ..settings(2) }, 0);
    let (a, b) = (room.join_at(Over::Plain, 1, 0, 0), room.join_at(Over::Plain, 2, 0, 1));
    let link = room.world.join(&key(9), LoginKind::Node, 0, 0);
    room.world.run();
    let all: Vec<u8> = (0..5_000).flat_map(|n| frame(PRESENT, &distant(n))).collect();
    room.world.send(link, &all);
    room.world.run();
    assert_eq!(room.world.board().keys_total, 5_002);
    room.world.reset(link);
    let (mut before, mut looks) = (5_002, 0);
    while room.world.step() {
        let now = room.world.board().keys_total;
        assert!(before - now <= 1_024, "{} keys in one tick", before - now);
        if now < before {
            looks += 1;
            room.send(a, &packet(2, b"meanwhile"));
        }
        before = now;
    }
    assert_eq!(before, 2);
    assert_eq!(room.frames(b), vec![from(1, b"meanwhile"); looks]);
    assert!(looks >= 5, "{looks}");
}

#[test]
fn a_frame_for_all_members_is_written_to_some_each_tick_and_to_each_once() {
    let mut room = Room::new(1);
    let parties: Vec<_> = (0..200).map(|n| room.world.join(&distant(n), LoginKind::Client, 0, 0)).collect();
    room.world.run();
    let text = frame(HEALTH, b"soon");
    room.world.submit_to_all(|| Command::ToAll {
        action: MemberAction::Write(text.clone().into()),
        spare_mesh_peers: true,
    });
    let (mut before, mut ticks) = (0, 0);
    while room.world.step() {
        let now = parties.iter().filter(|party| room.world.has_received(**party)).count();
        assert!(now - before <= 64, "{} in one tick", now - before);
        ticks += usize::from(now > before);
        before = now;
    }
    assert!(ticks >= 4, "{ticks}");
    for party in parties {
        assert_eq!(room.world.receive(party), text);
    }
}

#[test]
fn a_report_lists_each_member_once_and_marks_its_last_part() {
    let mut room = Room::new(2);
    for n in 0..600 {
        room.world.join(&distant(n), LoginKind::Client, 0, (n % 2) as usize);
    }
    room.world.run();
    room.world.events();
    room.world.submit_to_all(|| Command::Report(7));
    room.world.run();
    let (mut keys, mut last) = (Vec::new(), 0);
    for event in room.world.events() {
        let Event::Members { report, members, is_last } = event else { panic!("{event:?}") };
        assert!(report == 7 && members.len() <= 256);
        last += usize::from(is_last);
        keys.extend(members.into_iter().map(|standing| standing.member.key));
    }
    keys.sort_unstable();
    let mut wanted: Vec<_> = (0..600).map(distant).collect();
    wanted.sort_unstable();
    assert_eq!((keys, last), (wanted, 2));
}
