//! Values at stable indices, in reused memory.

/// The index of a value. It is reused after the value was removed.
pub(crate) type Index = u32;

#[derive(Debug)]
pub(crate) struct Slab<T> {
    values: Vec<Option<T>>,
    free: Vec<Index>,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self { values: Vec::new(), free: Vec::new() }
    }
}

impl<T> Slab<T> {
    /// Number of values.
    pub(crate) fn len(&self) -> usize {
        self.values.len() - self.free.len()
    }

    /// Number of values that fit into the allocated memory.
    pub(crate) fn capacity(&self) -> usize {
        self.values.capacity()
    }

    pub(crate) fn insert(&mut self, value: T) -> Index {
        if let Some(index) = self.free.pop() {
            self.values[index as usize] = Some(value);
            return index;
        }
        self.values.push(Some(value));
        (self.values.len() - 1) as Index
    }

    pub(crate) fn get(&self, index: Index) -> Option<&T> {
        self.values.get(index as usize)?.as_ref()
    }

    pub(crate) fn get_mut(&mut self, index: Index) -> Option<&mut T> {
        self.values.get_mut(index as usize)?.as_mut()
    }

    pub(crate) fn remove(&mut self, index: Index) {
        if self.values.get_mut(index as usize).is_some_and(|value| value.take().is_some()) {
            self.free.push(index);
        }
    }
}
