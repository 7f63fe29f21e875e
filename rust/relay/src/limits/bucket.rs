//! A token bucket. No clock: the time is passed in, in milliseconds.

/// The rate and the capacity of a token bucket.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Rate {
    /// Tokens per second; infinite: no limit.
    pub per_second: f64,
    /// Maximum tokens; a bucket begins with this number.
    pub burst: f64,
}

/// The state of one bucket.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct Bucket {
    tokens: f64,
    at: u64,
}

impl Bucket {
    /// An unused bucket: full, whatever its rate.
    pub(crate) const fn full() -> Self {
        Self { tokens: f64::INFINITY, at: 0 }
    }

    /// Takes `cost` tokens. Returns the milliseconds until there are enough tokens as an error.
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
        // Epsilon, so that floating-point error does not add a millisecond.
        Err((wait - 1e-6).ceil().max(1.0) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate { per_second: 1.0, burst: 3.0 };

    #[test]
    fn a_burst_of_three_is_followed_by_one_each_second() {
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
    fn tokens_do_not_exceed_the_burst() {
        let mut bucket = Bucket::full();
        assert_eq!(bucket.take(RATE, 3.0, 0), Ok(()));
        assert_eq!(bucket.take(RATE, 3.0, 1_000_000), Ok(()));
        assert_eq!(bucket.take(RATE, 3.0, 1_000_000), Err(3_000));
    }

    #[test]
    fn an_infinite_rate_has_no_limit() {
        let rate = Rate { per_second: f64::INFINITY, burst: f64::MAX };
        let mut bucket = Bucket::full();
        for _ in 0..1_000 {
            assert_eq!(bucket.take(rate, 1.0, 0), Ok(()));
        }
    }
}
