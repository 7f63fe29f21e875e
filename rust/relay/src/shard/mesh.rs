//! The region's other nodes (`docs/protocol/mesh.md`): watchers, links, and packets of keys on other nodes.

use std::collections::HashMap;

use crate::id::ConnId;
use crate::io::epoll::Net;
use crate::messages::{CloseReason, Event, Reason};
use crate::shard::conn::{Linked, Stage};
use crate::shard::mailbox::RoutedPacket;
use crate::stats::counter::DropReason;
use crate::switchboard::table::{Forwarders, Left};
use crate::wire::frame::{self, Gone, Key};

use super::{Shard, ShardMessage};

/// Bytes of announcements queued for a watcher at a time.
const FEED: usize = 64 * 1024;
/// Keys of ended links that are removed in one tick: a link may have announced a million.
const LOST_A_TICK: usize = 1_024;
/// Maximum receivers stored for one key at another node; the latest ones are kept.
const MAX_RECEIVERS: usize = 1_024;

/// The receivers of packets from keys at other nodes. They are notified when the key leaves the region.
#[derive(Default)]
pub(super) struct RemoteSources {
    /// The latest receiver is last.
    receivers: HashMap<Key, Vec<ConnId>>,
    /// Number of receivers of all keys. Invariant: the sum over `receivers`.
    count: usize,
}

impl RemoteSources {
    /// Stores `to` as a receiver of packets from `key`. If there are more than `most` receivers of all keys together,
    /// the entry of another key is removed. Returns the number of receivers removed with it.
    pub(super) fn note(&mut self, key: &Key, to: ConnId, most: usize) -> usize {
        if let Some(receivers) = self.receivers.get_mut(key) {
            if receivers.last() == Some(&to) {
                return 0;
            }
            let before = receivers.len();
            receivers.retain(|known| *known != to);
            if receivers.len() == MAX_RECEIVERS {
                receivers.remove(0);
            }
            receivers.push(to);
            self.count = self.count + receivers.len() - before;
        } else {
            self.receivers.insert(*key, vec![to]);
            self.count += 1;
        }
        if self.count <= most {
            return 0;
        }
        let other = self.receivers.keys().find(|other| *other != key).copied();
        other.map_or(0, |other| self.remove(&other).len())
    }

    fn remove(&mut self, key: &Key) -> Vec<ConnId> {
        let receivers = self.receivers.remove(key).unwrap_or_default();
        self.count -= receivers.len();
        receivers
    }
}

impl<N: Net> Shard<N> {
    // Watchers: nodes that dialled us.

    /// Makes a mesh peer a watcher: it gets all keys of this node, and all changes.
    pub(super) fn watch_conns(&mut self, id: ConnId) {
        let Some(switched) = self.conns.get(id).and_then(|conn| conn.switched()) else { return };
        if switched.member.key == self.shared.settings.server_key {
            return;
        }
        if switched.watch.is_none() {
            self.watchers.push(id);
            self.shared.switchboard.set_watchers(self.index, self.watchers.len());
        }
        // If a watcher repeats its request, it gets all keys again. Departures that are still queued for it are sent,
        // too.
        let keys = self.shared.switchboard.local_keys();
        if let Some(switched) = self.conns.get_mut(id).and_then(|conn| conn.switched_mut()) {
            let watch = switched.watch.get_or_insert_default();
            keys.iter().for_each(|key| watch.changed(key));
        }
        self.feed_watcher(id);
    }

    pub(super) fn stop_watching(&mut self, id: ConnId) {
        self.watchers.retain(|other| *other != id);
        self.shared.switchboard.set_watchers(self.index, self.watchers.len());
    }

    /// Notifies every watcher on every shard that a key of this node has come, come again or gone.
    pub(super) fn announce(&mut self, key: &Key) {
        for shard in self.shared.switchboard.watching() {
            if shard != self.index {
                self.outgoing[shard].messages.push(ShardMessage::Changed(*key));
            }
        }
        self.notify_watchers(key);
    }

    pub(super) fn notify_watchers(&mut self, key: &Key) {
        for at in 0..self.watchers.len() {
            let id = self.watchers[at];
            if let Some(watch) = self.conns.get_mut(id).and_then(|conn| conn.switched_mut()?.watch.as_mut()) {
                watch.changed(key);
            }
            self.feed_watcher(id);
        }
    }

    /// Queues the changes that a watcher has not got yet, within the bound for its socket. The rest follows after the
    /// write.
    pub(super) fn feed_watcher(&mut self, id: ConnId) {
        let mut room = FEED.saturating_sub(self.backlog(id));
        let (mut is_unfinished, mut changes) = (false, 0);
        while let Some(watch) = self.conns.get_mut(id).and_then(|conn| conn.switched_mut()?.watch.as_mut()) {
            if watch.is_empty() {
                break;
            }
            if room == 0 {
                is_unfinished = true;
                break;
            }
            let Some(key) = watch.next() else { break };
            let len = match self.shared.switchboard.presence(&key) {
                Some(presence) => {
                    self.control(id, &presence);
                    presence.len()
                }
                None => {
                    self.send_peer_gone(id, &key, Gone::Disconnected);
                    frame::HEADER + frame::KEY + 1
                }
            };
            room = room.saturating_sub(len);
            changes += 1;
        }
        if changes > 0 {
            self.count_batch(id, changes);
        }
        let may_go_on = self.conns.get(id).is_some_and(|conn| !conn.blocked);
        if is_unfinished && may_go_on && !self.unfinished.contains(&id) {
            self.unfinished.push(id);
        }
    }

    /// Continues with watchers whose updates were too long for the last tick.
    pub(super) fn resume_unfinished(&mut self) {
        for id in std::mem::take(&mut self.unfinished) {
            self.feed_watcher(id);
        }
    }

    /// Closes every connection of a key, as a mesh peer requested.
    pub(super) fn close_peer(&mut self, key: &Key) {
        match self.shared.switchboard.find(key).map(|peer| peer.shard()) {
            Some(shard) if shard != self.index => {
                self.outgoing[shard].messages.push(ShardMessage::ClosePeer(*key))
            }
            Some(_) => self.close_key(key),
            None => {}
        }
    }

    /// Closes every connection of a key of this shard.
    pub(super) fn close_key(&mut self, key: &Key) {
        for id in self.connections_of(key) {
            self.finish(id, Reason::code(CloseReason::ClosedByMeshPeer));
        }
    }

    /// Delivers a packet from another node, or drops it. A zero source key comes from a faulty node only.
    pub(super) fn forward(&mut self, id: ConnId, from: &Key, to: &Key, packet: &[u8]) {
        self.shared.switchboard.mesh();
        self.counters().packets_forwarded_in.add(1);
        let active = self.shared.switchboard.find_here(to).filter(|_| *from != [0; 32]);
        if let Some(active) = active {
            self.note_remote(from, active);
            self.deliver(&RoutedPacket { to: active, key: to, from, packet });
            return;
        }
        let disco = frame::is_disco(packet);
        self.count_drop(DropReason::UnknownDestinationOnForward, to, disco, packet.len());
        if disco {
            self.not_here(id, to);
        }
    }

    /// Stores that a connection got a packet from a key at another node.
    pub(super) fn note_remote(&mut self, key: &Key, to: ConnId) {
        let forgotten = self.remote_sources.note(key, to, self.max_routes);
        self.counters().routes_forgotten.add(forgotten as u64);
    }

    // Links: nodes that we dialled.

    /// Begins to use a link, after the login at the node that we dialled.
    pub(super) fn link(&mut self, id: ConnId, first: &[u8]) {
        if !self.is_parked(id) {
            return;
        }
        self.control(id, first);
        self.shared.switchboard.mesh();
        self.enter(id, Stage::Linked(Linked::default()), self.shared.settings.link_silence);
        if let Some(conn) = self.conns.get_mut(id) {
            conn.write_timeout = self.shared.settings.link_write_timeout;
        }
        self.resume(id);
    }

    /// Restarts the silence timeout of a link after input.
    pub(super) fn extend_silence(&mut self, link: ConnId) {
        let until = self.now.saturating_add(self.shared.settings.link_silence);
        if let Some(conn) = self.conns.get_mut(link) {
            conn.deadline = until;
        }
    }

    /// Adds a key that a node announced.
    pub(super) fn add_link_key(&mut self, link: ConnId, key: &Key) {
        let most = self.shared.settings.mesh_max_keys;
        let Some(Stage::Linked(linked)) = self.conns.get_mut(link).map(|conn| &mut conn.stage) else {
            return;
        };
        if !std::mem::replace(&mut linked.announced, true) {
            self.events.push(Event::Linked { conn: link });
        }
        if linked.keys.contains(key) {
            return;
        }
        if linked.keys.len() >= most {
            self.counters().mesh_keys_refused.add(1);
            return;
        }
        linked.keys.insert(*key);
        if self.shared.switchboard.add_forwarder(key, link) == Forwarders::Several {
            self.counters().multiforwarder_created.add(1);
        }
    }

    /// Removes a key that a node no longer has, or never had.
    pub(super) fn remove_link_key(&mut self, link: ConnId, key: &Key) {
        let Some(Stage::Linked(linked)) = self.conns.get_mut(link).map(|conn| &mut conn.stage) else {
            return;
        };
        linked.keys.remove(key);
        self.remove_forwarder(link, key);
    }

    /// Removes the keys of ended links from the table, some in each tick. Packets for the other keys are lost until
    /// then.
    pub(super) fn remove_lost_links(&mut self) {
        let mut left = LOST_A_TICK;
        while let Some((link, mut keys)) = self.lost_links.pop_front() {
            for key in keys.by_ref().take(left) {
                self.remove_forwarder(link, &key);
                left -= 1;
            }
            if keys.len() > 0 {
                self.lost_links.push_front((link, keys));
                break;
            }
            self.shared.switchboard.shrink();
        }
    }

    /// Removes `link` from the forwarders of `key`.
    pub(super) fn remove_forwarder(&mut self, link: ConnId, key: &Key) {
        let (change, left) = self.shared.switchboard.remove_forwarder(key, link);
        match change {
            Forwarders::Several => self.counters().multiforwarder_deleted.add(1),
            Forwarders::Another => self.counters().packet_forwarder_delete_other_value.add(1),
            Forwarders::Only | Forwarders::Unchanged => {}
        }
        if left == Left::Nowhere && matches!(change, Forwarders::Only | Forwarders::Several) {
            self.left_region(key);
        }
    }

    /// Called when a key has left the region. Notifies, on all shards, the connections that `note_remote` has stored as
    /// receivers of this key's packets.
    pub(super) fn left_region(&mut self, key: &Key) {
        if !self.shared.switchboard.is_meshed() {
            return;
        }
        for shard in 0..self.outgoing.len() {
            if shard != self.index {
                self.outgoing[shard].messages.push(ShardMessage::LeftRegion(*key));
            }
        }
        self.notify_remote_receivers(key);
    }

    pub(super) fn notify_remote_receivers(&mut self, key: &Key) {
        for to in self.remote_sources.remove(key) {
            self.notify_gone(to, key);
        }
    }

    /// Sends `PeerGone` to a connection of any shard.
    pub(super) fn notify_gone(&mut self, to: ConnId, key: &Key) {
        if to.shard() == self.index {
            self.send_peer_gone(to, key, Gone::Disconnected);
        } else {
            self.outgoing[to.shard()].messages.push(ShardMessage::PeerGone { to, key: *key });
        }
    }
}
