//! Values at indices that stay, in memory that is used again.

/// Where a value stands. Used again once the value is gone.
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
    /// How many values there are.
    pub(crate) fn len(&self) -> usize {
        self.values.len() - self.free.len()
    }

    /// How many values there is memory for.
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
