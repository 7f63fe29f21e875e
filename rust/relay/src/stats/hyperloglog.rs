//! An estimate of the number of keys that have sent to one key: a `HyperLogLog`, with constant memory.

/// Bits of a hash that choose a register: 256 registers give 7 % of error for large numbers.
const BITS: u32 = 8;
const REGISTERS: usize = 1 << BITS;

/// Estimates the number of distinct hashes.
#[derive(Debug)]
pub(crate) struct HyperLogLog {
    /// For each register, the maximum number of zeros after the choosing bits, plus one.
    registers: [u8; REGISTERS],
}

impl Default for HyperLogLog {
    fn default() -> Self {
        Self { registers: [0; REGISTERS] }
    }
}

impl HyperLogLog {
    /// Adds a hash. Clients must not be able to choose it.
    pub(crate) fn note(&mut self, hash: u64) {
        let register = &mut self.registers[(hash >> (u64::BITS - BITS)) as usize];
        // The bit after the others bounds the zeros.
        let zeros = ((hash << BITS) | (1 << (BITS - 1))).leading_zeros();
        *register = (*register).max(zeros as u8 + 1);
    }

    /// Estimated number of distinct hashes.
    pub(crate) fn estimate(&self) -> u64 {
        const M: f64 = REGISTERS as f64;
        let sum: f64 = self.registers.iter().map(|register| (-f64::from(*register)).exp2()).sum();
        let estimate = 0.7213 / (1.0 + 1.079 / M) * M * M / sum;
        let untouched = self.registers.iter().filter(|register| **register == 0).count();
        // While many registers are empty, their number gives the better estimate.
        let few = estimate <= 2.5 * M && untouched > 0;
        let estimate = if few { M * (M / untouched as f64).ln() } else { estimate };
        estimate.round() as u64
    }
}

#[cfg(test)]
mod tests {
    use std::hash::BuildHasher;

    use super::*;

    #[test]
    fn small_numbers_are_counted_and_large_ones_estimated() {
        let hasher = std::hash::BuildHasherDefault::<std::hash::DefaultHasher>::default();
        let mut senders = HyperLogLog::default();
        assert_eq!(senders.estimate(), 0);
        for n in 1_u64..=100_000 {
            for _ in 0..2 {
                senders.note(hasher.hash_one(n));
            }
            let (estimate, n) = (senders.estimate() as f64, n as f64);
            if n <= 3.0 {
                assert!((estimate - n).abs() < f64::EPSILON, "{estimate} for {n}");
            } else if n >= 100.0 {
                assert!((0.75..1.25).contains(&(estimate / n)), "{estimate} for {n}");
            }
        }
    }
}
