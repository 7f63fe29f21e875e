//! A token bucket. No clock: the time is passed in, in milliseconds.

/// How many tokens come a second, and how many there are at most.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Rate {
    /// Tokens a second; infinite: no limit.
    pub per_second: f64,
    /// Most tokens; a bucket begins with so many.
    pub burst: f64,
}

/// What one bucket holds.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct Bucket {
    tokens: f64,
    at: u64,
}

impl Bucket {
    /// A bucket that has not been used yet: full, whatever its rate.
    pub(crate) const fn full() -> Self {
        Self { tokens: f64::INFINITY, at: 0 }
    }

    /// Takes `cost` tokens, or says for how many milliseconds there will not be so many.
    pub(crate) fn take(&mut self, rate: Rate, cost: f64, now: u64) -> Result<(), u64> {
        if rate.per_second.is_infinite() {
            return Ok(());
        }
        let earned = now.saturating_sub(self.at) as f64 / 1_000.0 * rate.per_second;
        self.tokens = (self.tokens + earned).min(rate.burst);
        self.at = now;
        if self.tokens >= cost {
            self.tokens -= cost;
            return Ok(());
        }
        let wait = (cost - self.tokens) / rate.per_second * 1_000.0;
        // What is lacking of a millisecond by rounding alone is none.
        Err((wait - 1e-6).ceil().max(1.0) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate { per_second: 1.0, burst: 3.0 };

    #[test]
    fn three_at_once_then_one_a_second() {
        let mut bucket = Bucket::full();
        for _ in 0..3 {
            assert_eq!(bucket.take(RATE, 1.0, 5_000), Ok(()));
        }
        assert_eq!(bucket.take(RATE, 1.0, 5_000), Err(1_000));
        assert_eq!(bucket.take(RATE, 1.0, 5_999), Err(1));
        assert_eq!(bucket.take(RATE, 1.0, 6_000), Ok(()));
        assert_eq!(bucket.take(RATE, 1.0, 6_000), Err(1_000));
    }

    #[test]
    fn nothing_is_saved_beyond_the_burst() {
        let mut bucket = Bucket::full();
        assert_eq!(bucket.take(RATE, 3.0, 0), Ok(()));
        assert_eq!(bucket.take(RATE, 3.0, 1_000_000), Ok(()));
        assert_eq!(bucket.take(RATE, 3.0, 1_000_000), Err(3_000));
    }

    #[test]
    fn an_infinite_rate_never_refuses() {
        let rate = Rate { per_second: f64::INFINITY, burst: f64::MAX };
        let mut bucket = Bucket::full();
        for _ in 0..1_000 {
            assert_eq!(bucket.take(rate, 1.0, 0), Ok(()));
        }
    }
}
