//! The effect of each frame of a member (`docs/protocol/relay.md`).

use crate::id::ConnId;
use crate::io::epoll::Net;
use crate::limits::bucket::Rate;
use crate::messages::Event;
use crate::shard::mailbox::RoutedPacket;
use crate::stats::counter::DropReason;
use crate::wire::frame::{self, Gone, Inbound, Key, Type};

use super::turn::{LOOK_UP, NEW_ROUTE};
use super::{DROP_EVENTS_A_TICK, Shard};

/// Undroppable bytes queued for a blocked connection above which it is closed instead of getting more `PeerGone`
/// frames.
const GONE_BACKLOG: usize = 1024 * 1024;
/// Milliseconds after the login in which a change of home does not count as a move.
const SETTLING: u64 = 5_000;
/// Rate of "not here" answers to one connection (`docs/protocol/relay.md`, Routing).
const NOT_HERE: Rate = Rate { per_second: 1.0, burst: 3.0 };

impl<N: Net> Shard<N> {
    pub(super) fn relay(&mut self, id: ConnId, frame: Inbound<'_>) {
        self.mark_active(id);
        match frame {
            Inbound::Send { to, packet } => self.send_packet(id, to, packet),
            Inbound::Forward { from, to, packet } => self.forward(id, from, to, packet),
            Inbound::Preferred(home) => self.note_preferred(id, home),
            Inbound::Ping(data) => self.pong(id, data),
            Inbound::Watch => self.watch_conns(id),
            Inbound::ClosePeer(key) => self.close_peer(key),
            Inbound::Present(key) => self.add_link_key(id, key),
            Inbound::Gone(key) => self.remove_link_key(id, key),
            Inbound::Unknown => {}
        }
    }

    /// Makes the connection that sent last the active one of its key.
    pub(super) fn mark_active(&mut self, id: ConnId) {
        let Some(switched) = self.conns.get(id).and_then(|conn| conn.switched()) else { return };
        let Some(local) = self.locals.get_mut(switched.local).and_then(Option::as_mut) else { return };
        if local.connections.last() != Some(id) {
            local.connections.push(id);
            switched.peer.set_active(id);
            self.note_taking(id);
        }
    }

    fn send_packet(&mut self, id: ConnId, to: &Key, packet: &[u8]) {
        let disco = frame::is_disco(packet);
        let counters = self.counters();
        if disco { &counters.packets_received_disco } else { &counters.packets_received_other }.add(1);
        counters.bytes_received.add(packet.len() as u64);
        let Some(switched) = self.conns.get_mut(id).and_then(|conn| conn.switched_mut()) else { return };
        switched.totals.packets_in += 1;
        switched.totals.bytes_in += packet.len() as u64;
        let (from, local, hint) = (switched.member.key, switched.local, switched.last_route);
        let Some((route, active)) = self.route(local, hint, to) else {
            self.count_drop(DropReason::UnknownDestination, to, disco, packet.len());
            if disco {
                self.not_here(id, to);
            }
            return;
        };
        if route != hint
            && let Some(switched) = self.conns.get_mut(id).and_then(|conn| conn.switched_mut())
        {
            switched.last_route = route;
        }
        self.deliver(&RoutedPacket { to: active, key: to, from: &from, packet });
    }

    /// Returns the index of the route to `to`, and the connection that gets its packets now. The route notes the
    /// connection.
    fn route(&mut self, local: usize, hint: usize, to: &Key) -> Option<(usize, ConnId)> {
        let mut routes = &mut self.locals.get_mut(local)?.as_mut()?.routes;
        if let Some(index) = routes.find(to, hint) {
            if index != hint {
                self.turn.spend(LOOK_UP);
            }
            let route = routes.at(index);
            let active = route.peer.active();
            if active != ConnId::NONE {
                route.note(active);
                return Some((index, active));
            }
        }
        self.turn.spend(LOOK_UP);
        let peer = self.shared.switchboard.find(to)?;
        let active = peer.active();
        if active == ConnId::NONE {
            return None;
        }
        self.turn.spend(NEW_ROUTE);
        if self.routes >= self.max_routes {
            self.shed_routes();
            routes = &mut self.locals.get_mut(local)?.as_mut()?.routes;
        }
        let before = routes.len();
        let (index, dropped) = routes.insert(to, peer);
        routes.at(index).note(active);
        self.routes = self.routes + routes.len() - before;
        if dropped {
            self.counters().routes_forgotten.add(1);
        }
        Some((index, active))
    }

    /// Queues a packet for the connection that gets the packets of its key.
    pub(super) fn deliver(&mut self, routed: &RoutedPacket<'_>) {
        let shard = routed.to.shard();
        if shard == self.index {
            self.receive_for(routed);
            return;
        }
        self.counters().packets_crossed.add(1);
        self.outgoing[shard].post(routed);
        if self.shared.handles[shard].mailboxes[self.index].is_filled_by(&self.outgoing[shard]) {
            self.publish();
        }
    }

    /// Queues a packet for a connection of this shard.
    pub(super) fn receive_for(&mut self, routed: &RoutedPacket<'_>) {
        if self.shared.settings.count_senders {
            self.note_sender(routed);
        }
        self.enqueue(routed);
    }

    /// Counts a dropped packet. If drops of its destination are logged, an event reports it.
    pub(super) fn count_drop(&mut self, why: DropReason, to: &Key, disco: bool, bytes: usize) {
        self.counters().dropped(why, disco, bytes);
        let watched = &self.shared.settings.verbose_drops;
        if !watched.is_empty() && watched.contains(to) && self.drop_events < DROP_EVENTS_A_TICK {
            self.drop_events += 1;
            self.events.push(Event::Dropped { to: *to, reason: why.name(), bytes });
        }
    }

    /// Sends "not here" for a key to a sender, within the rate limit of these answers.
    pub(super) fn not_here(&mut self, id: ConnId, key: &Key) {
        let now = self.now;
        let Some(switched) = self.conns.get_mut(id).and_then(|conn| conn.switched_mut()) else { return };
        if switched.not_here.take(NOT_HERE, 1.0, now).is_ok() {
            self.send_peer_gone(id, key, Gone::NotHere);
        }
    }

    /// Sends `PeerGone` to a connection of this shard. A link gets none.
    pub(super) fn send_peer_gone(&mut self, id: ConnId, key: &Key, why: Gone) {
        let backlog = self.backlog(id);
        let Some(conn) = self.conns.get_mut(id) else { return };
        if conn.blocked && backlog > GONE_BACKLOG {
            // The connection does not read, and this frame may neither wait forever nor be left out.
            conn.deadline = self.now;
            self.arm(id);
            return;
        }
        let is_member = conn.switched().is_some();
        if is_member && self.control(id, &frame::peer_gone(key, why)) {
            let counters = self.counters();
            match why {
                Gone::Disconnected => counters.peer_gone_disconnected_frames.add(1),
                Gone::NotHere => counters.peer_gone_not_here_frames.add(1),
            }
        }
    }

    fn note_preferred(&mut self, id: ConnId, home: bool) {
        let now = self.now;
        let Some(switched) = self.conns.get_mut(id).and_then(|conn| conn.switched_mut()) else { return };
        if switched.home == home {
            return;
        }
        switched.home = home;
        let has_settled = now - switched.since_ms > SETTLING;
        let counters = self.counters();
        if home {
            counters.current_home_connections.add(1);
        } else {
            counters.current_home_connections.subtract(1);
        }
        if has_settled {
            if home { &counters.home_moves_in } else { &counters.home_moves_out }.add(1);
        }
    }

    fn pong(&mut self, id: ConnId, data: [u8; 8]) {
        self.counters().got_ping.add(1);
        if self.is_behind(id) {
            return;
        }
        let mut answer = frame::header(Type::Pong, data.len()).to_vec();
        answer.extend_from_slice(&data);
        if self.control(id, &answer) {
            self.counters().sent_pong.add(1);
        }
    }
}
