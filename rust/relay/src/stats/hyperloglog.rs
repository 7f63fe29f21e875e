//! An estimate of how many keys have sent to one key: a `HyperLogLog`, whose memory is constant.

/// As many bits of a hash choose a register: 256 registers, and 7 % of error where there are many.
const BITS: u32 = 8;
const REGISTERS: usize = 1 << BITS;

/// Remembers how many different hashes it has seen, not which.
#[derive(Debug)]
pub(crate) struct HyperLogLog {
    /// Of the hashes that chose a register, the most zeros that one had behind the choice, and one.
    registers: [u8; REGISTERS],
}

impl Default for HyperLogLog {
    fn default() -> Self {
        Self { registers: [0; REGISTERS] }
    }
}

impl HyperLogLog {
    /// Sees a hash, which nobody outside may be able to choose.
    pub(crate) fn note(&mut self, hash: u64) {
        let register = &mut self.registers[(hash >> (u64::BITS - BITS)) as usize];
        // The bit behind the others ends the zeros at the latest.
        let zeros = ((hash << BITS) | (1 << (BITS - 1))).leading_zeros();
        *register = (*register).max(zeros as u8 + 1);
    }

    /// About how many different hashes that were.
    pub(crate) fn estimate(&self) -> u64 {
        const M: f64 = REGISTERS as f64;
        let sum: f64 = self.registers.iter().map(|register| (-f64::from(*register)).exp2()).sum();
        let estimate = 0.7213 / (1.0 + 1.079 / M) * M * M / sum;
        let untouched = self.registers.iter().filter(|register| **register == 0).count();
        // As long as there are many empty registers, these tell more.
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
    fn few_are_counted_and_many_estimated() {
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
