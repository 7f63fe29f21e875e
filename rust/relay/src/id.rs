//! Ids of connections. An id is never used twice, so a late command affects the right connection or none.

use std::fmt;

/// Identifies one connection of one shard: shard above generation above slot (8, 23 and 32 bits).
///
/// Zero identifies no connection: generations begin at 1. The top bit is free, so an id is a small int in any language.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnId(u64);

const GENERATION_BITS: u32 = 23;
const SLOT_BITS: u32 = 32;
const GENERATION_MASK: u64 = (1 << GENERATION_BITS) - 1;

impl ConnId {
    /// The id of no connection.
    pub const NONE: Self = Self(0);

    /// An id from a number; a wrong number identifies no connection.
    #[must_use]
    pub const fn from_u64(raw: u64) -> Self {
        Self(raw)
    }

    /// The id as a number.
    #[must_use]
    pub const fn as_u64(self) -> u64 {
        self.0
    }

    /// The shard where this connection lives.
    #[must_use]
    pub const fn shard(self) -> usize {
        (self.0 >> (GENERATION_BITS + SLOT_BITS)) as usize
    }

    const fn new(shard: u8, generation: u32, slot: u32) -> Self {
        let above = ((shard as u64) << GENERATION_BITS) | generation as u64;
        Self((above << SLOT_BITS) | slot as u64)
    }

    const fn generation(self) -> u32 {
        ((self.0 >> SLOT_BITS) & GENERATION_MASK) as u32
    }

    const fn slot(self) -> usize {
        (self.0 & u32::MAX as u64) as usize
    }
}

impl fmt::Debug for ConnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}.{}", self.shard(), self.slot(), self.generation())
    }
}

struct Slot<T> {
    /// Number of connections that have had this slot; part of their ids.
    generation: u32,
    value: Option<T>,
}

/// The connections of one shard, found by id in constant time.
pub(crate) struct Slots<T> {
    shard: u8,
    slots: Vec<Slot<T>>,
    free: Vec<u32>,
}

impl<T> Slots<T> {
    pub(crate) const fn new(shard: u8) -> Self {
        Self { shard, slots: Vec::new(), free: Vec::new() }
    }

    pub(crate) fn insert(&mut self, value: T) -> ConnId {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot { generation: 0, value: None });
            (self.slots.len() - 1) as u32
        });
        let entry = &mut self.slots[slot as usize];
        // Generation 0 is left out, so that no id is ever zero.
        entry.generation = entry.generation % (GENERATION_MASK as u32) + 1;
        entry.value = Some(value);
        ConnId::new(self.shard, entry.generation, slot)
    }

    fn find(&self, id: ConnId) -> Option<usize> {
        let slot = self.slots.get(id.slot())?;
        (slot.generation == id.generation() && id.shard() == usize::from(self.shard)).then_some(id.slot())
    }

    pub(crate) fn get(&self, id: ConnId) -> Option<&T> {
        self.slots[self.find(id)?].value.as_ref()
    }

    pub(crate) fn get_mut(&mut self, id: ConnId) -> Option<&mut T> {
        let slot = self.find(id)?;
        self.slots[slot].value.as_mut()
    }

    pub(crate) fn remove(&mut self, id: ConnId) -> Option<T> {
        let slot = self.find(id)?;
        let value = self.slots[slot].value.take()?;
        self.free.push(slot as u32);
        Some(value)
    }

    /// The ids in use among `count` slots from slot `at` on.
    pub(crate) fn ids_among(&self, at: usize, count: usize) -> impl Iterator<Item = ConnId> + '_ {
        self.slots
            .iter()
            .enumerate()
            .skip(at)
            .take(count)
            .filter(|(_, slot)| slot.value.is_some())
            .map(|(at, slot)| ConnId::new(self.shard, slot.generation, at as u32))
    }

    /// Number of slots, with free ones.
    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    pub(crate) fn ids(&self) -> impl Iterator<Item = ConnId> + '_ {
        self.ids_among(0, usize::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reused_slot_is_not_found_by_its_old_id() {
        let mut slots = Slots::new(3);
        let first = slots.insert('a');
        assert_eq!(slots.remove(first), Some('a'));
        let second = slots.insert('b');
        assert_ne!(first, second);
        assert_eq!(slots.get(first), None);
        assert_eq!(slots.get(second), Some(&'b'));
        assert_eq!(second.shard(), 3);
        assert_eq!(slots.ids().collect::<Vec<_>>(), [second]);
    }

    #[test]
    fn an_id_of_another_shard_or_of_no_connection_finds_nothing() {
        let mut slots = Slots::new(0);
        let here = slots.insert(());
        let there = ConnId::new(1, here.generation(), here.slot() as u32);
        assert_eq!(slots.get(there), None);
        assert_eq!(slots.get(ConnId::NONE), None);
        assert_eq!(slots.get(ConnId::from_u64(u64::MAX)), None);
    }

    #[test]
    fn generations_wrap_without_ever_making_the_zero_id() {
        let mut slots = Slots::new(0);
        let id = slots.insert(());
        slots.slots[id.slot()].generation = GENERATION_MASK as u32;
        slots.free.push(0);
        assert_ne!(slots.insert(()), ConnId::NONE);
    }
}
