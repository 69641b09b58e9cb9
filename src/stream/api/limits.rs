//! The throughput a shard allows.
//!
//! Owns: Kinesis' rates per shard, as buckets that fill with time. Does not own: time (the caller gives it), which shard a
//! record goes to (put).

const MIB: f64 = 1_048_576.0;

/// What one shard allows per second; none = anything.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Limits {
    rates: Option<Rates>,
}

#[derive(Clone, Copy, PartialEq, Debug)]
struct Rates {
    reads: f64,
    read_bytes: f64,
    records: f64,
    write_bytes: f64,
}

impl Limits {
    /// Those of Kinesis: 5 calls of GetRecords and 2 MiB out, 1,000 records and 1 MiB in, per shard and second. One large answer
    /// may be given on credit and is paid for by refusing the next calls.
    pub fn aws() -> Self {
        Self { rates: Some(Rates { reads: 5.0, read_bytes: 2.0 * MIB, records: 1000.0, write_bytes: MIB }) }
    }

    /// None at all.
    pub fn none() -> Self {
        Self::default()
    }

    pub(super) fn any(&self) -> bool {
        self.rates.is_some()
    }

    /// What a shard's readers by subscription get, bytes per second.
    pub(super) fn subscribed_bytes(&self) -> Option<f64> {
        self.rates.map(|rates| rates.read_bytes)
    }
}

/// What is left of one shard's second.
#[derive(Default)]
pub(super) struct Budget {
    reads: Bucket,
    read_bytes: Bucket,
    records: Bucket,
    write_bytes: Bucket,
}

impl Budget {
    /// May a read begin? Counts it if so.
    pub(super) fn read(&mut self, limits: &Limits, now_us: i64) -> bool {
        let Some(rates) = &limits.rates else { return true };
        self.reads.fill(rates.reads, now_us);
        self.read_bytes.fill(rates.read_bytes, now_us);
        if self.reads.left < 1.0 || self.read_bytes.left <= 0.0 {
            return false;
        }
        self.reads.left -= 1.0;
        true
    }

    /// A read gave so many bytes.
    pub(super) fn was_read(&mut self, bytes: usize) {
        self.read_bytes.left -= bytes as f64;
    }

    /// May a record of so many bytes go in? Counts it if so.
    pub(super) fn write(&mut self, limits: &Limits, bytes: usize, now_us: i64) -> bool {
        let Some(rates) = &limits.rates else { return true };
        self.records.fill(rates.records, now_us);
        self.write_bytes.fill(rates.write_bytes, now_us);
        // A record larger than a second's worth goes into a full bucket only, on credit.
        let enough = (bytes as f64).min(rates.write_bytes);
        if self.records.left < 1.0 || self.write_bytes.left < enough {
            return false;
        }
        self.records.left -= 1.0;
        self.write_bytes.left -= bytes as f64;
        true
    }
}

/// Holds one second's worth, full at first.
#[derive(Default)]
struct Bucket {
    left: f64,
    filled_us: Option<i64>,
}

impl Bucket {
    fn fill(&mut self, rate: f64, now_us: i64) {
        let before_us = self.filled_us.unwrap_or(i64::MIN).min(now_us);
        let seconds = now_us.saturating_sub(before_us) as f64 / 1e6;
        self.left = (self.left + seconds * rate).min(rate);
        self.filled_us = Some(now_us);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000;

    #[test]
    fn five_reads_a_second() {
        let (limits, mut budget) = (Limits::aws(), Budget::default());
        let reads = |budget: &mut Budget, now_us| (0..9).filter(|_| budget.read(&limits, now_us)).count();
        assert_eq!(reads(&mut budget, 0), 5);
        assert_eq!(reads(&mut budget, SECOND / 5), 1);
        assert_eq!(reads(&mut budget, 10 * SECOND), 5);
        assert_eq!(reads(&mut budget, 9 * SECOND), 0, "a clock that falls gives nothing");
    }

    #[test]
    fn a_full_answer_of_ten_mebibytes_is_paid_for_in_the_next_five_seconds() {
        let (limits, mut budget) = (Limits::aws(), Budget::default());
        assert!(budget.read(&limits, 0));
        budget.was_read(10 << 20);
        assert!(!budget.read(&limits, 3 * SECOND));
        assert!(budget.read(&limits, 5 * SECOND));
    }

    #[test]
    fn a_thousand_records_or_a_mebibyte_a_second_go_in() {
        let (limits, mut budget) = (Limits::aws(), Budget::default());
        let writes = |budget: &mut Budget, bytes, now_us| (0..5000).filter(|_| budget.write(&limits, bytes, now_us)).count();
        assert_eq!(writes(&mut budget, 10, 0), 1000);
        assert_eq!(writes(&mut budget, 4096, SECOND), 256);
        assert_eq!(writes(&mut budget, 10 << 20, 2 * SECOND), 1, "a large one goes on credit");
        assert_eq!(writes(&mut budget, 1, 11 * SECOND), 0);
        assert!(writes(&mut budget, 1, 13 * SECOND) > 0);
    }

    #[test]
    fn without_limits_nothing_is_refused() {
        let mut budget = Budget::default();
        assert!((0..10_000).all(|_| budget.read(&Limits::none(), 0) && budget.write(&Limits::none(), 10 << 20, 0)));
    }
}
