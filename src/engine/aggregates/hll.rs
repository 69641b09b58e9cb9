//! Estimated distinct counts: HyperLogLog in the format of Apache DataSketches, in one canonical form.
//!
//! A sketch is a function of the set of its coupons alone: up to 3/4 of 2^(lg_k - 3) coupons are kept as they are (sorted when
//! written), more become one register per slot. The HIP estimate depends on the order of arrival, so it is never kept; the
//! composite estimate does not.
//!
//! Owns: coupons, registers, canonical bytes, `approx_distinct` and `hll_sketch`. Does not own: the hash and the estimator
//! (datasketches).

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::{ArrayRef, BinaryBuilder, BooleanArray, Int64Array};
use datafusion::common::{DataFusionError, Result};
use datasketches::hash::value::raw_bytes;
use datasketches::hll::{Coupon, HllSketch};

use super::cells::{Kind, Reader, damaged, each_value, input};

/// Slots of 2^26: the lower bits of a coupon.
const SLOT_BITS: u32 = 26;

/// Reads the number inside a `Coupon`: its derived `Hash` writes exactly that. A test holds it against Apache's bytes.
struct Tap(u32);

impl Hasher for Tap {
    fn finish(&self) -> u64 {
        self.0.into()
    }
    fn write(&mut self, bytes: &[u8]) {
        self.0 = bytes.iter().rev().fold(0, |number, byte| (number << 8) | u32::from(*byte));
    }
    fn write_u32(&mut self, number: u32) {
        self.0 = number;
    }
}

fn coupon(value: &[u8]) -> u32 {
    let mut tap = Tap(0);
    Coupon::from_value(raw_bytes::from_slice(value)).hash(&mut tap);
    tap.0
}

/// What one group has seen.
pub(crate) enum Seen {
    /// Open addressing, 0 = free; a coupon is never 0.
    Coupons {
        /// A power of two long, or empty.
        table: Vec<u32>,
        /// Coupons in it.
        len: usize,
    },
    /// Largest value per slot.
    Registers(Vec<u8>),
}

impl Default for Seen {
    fn default() -> Self {
        Self::Coupons { table: Vec::new(), len: 0 }
    }
}

/// What is made of the sketch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Distincts {
    /// The composite estimate, rounded.
    Estimate,
    /// Apache DataSketches bytes (HLL_8, compact).
    Sketch,
}

/// `approx_distinct(x)` and `hll_sketch(x)` with 2^lg_k registers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hll {
    pub(crate) lg_k: u8,
    pub(crate) gives: Distincts,
}

impl Hll {
    fn most_coupons(self) -> usize {
        3 * (1usize << (self.lg_k - 3)) / 4
    }

    fn raise(self, registers: &mut [u8], coupon: u32) {
        let slot = (coupon & ((1 << SLOT_BITS) - 1)) as usize & (registers.len() - 1);
        let value = (coupon >> SLOT_BITS) as u8;
        registers[slot] = registers[slot].max(value);
    }

    fn add(self, seen: &mut Seen, coupon: u32) {
        let (table, len) = match seen {
            Seen::Registers(registers) => return self.raise(registers, coupon),
            Seen::Coupons { table, len } => (table, len),
        };
        if (*len + 1) * 4 > table.len() * 3 {
            let size = (table.len() * 2).max(8);
            let old = std::mem::replace(table, vec![0; size]);
            old.into_iter().filter(|coupon| *coupon != 0).for_each(|coupon| {
                place(table, coupon);
            });
        }
        if place(table, coupon) {
            *len += 1;
        }
        if *len > self.most_coupons() {
            self.densify(seen);
        }
    }

    fn densify(self, seen: &mut Seen) {
        let Seen::Coupons { table, .. } = seen else { return };
        let mut registers = vec![0u8; 1 << self.lg_k];
        table.iter().filter(|coupon| **coupon != 0).for_each(|coupon| self.raise(&mut registers, *coupon));
        *seen = Seen::Registers(registers);
    }

    /// Bytes as Apache DataSketches writes them (HLL_8, compact, out of order), canonical.
    fn apache(self, seen: &Seen) -> Vec<u8> {
        let mut out = Vec::new();
        match seen {
            Seen::Coupons { table, len } => {
                let coupons = sorted(table);
                if *len < 8 {
                    // Mode LIST: preamble of 2 ints, version, family, lg_k, lg of the list, flags, count, type.
                    let flags = if *len == 0 { 8 | 4 } else { 8 };
                    out.extend_from_slice(&[2, 1, 7, self.lg_k, 3, flags, *len as u8, 2 << 2]);
                } else {
                    let lg_table = (5u8..).find(|lg| 4 * len <= 3 << lg).unwrap_or(self.lg_k);
                    out.extend_from_slice(&[3, 1, 7, self.lg_k, lg_table, 8, 0, 2 << 2 | 1]);
                    out.extend_from_slice(&(*len as u32).to_le_bytes());
                }
                coupons.iter().for_each(|coupon| out.extend_from_slice(&coupon.to_le_bytes()));
            }
            Seen::Registers(registers) => {
                out.extend_from_slice(&[10, 1, 7, self.lg_k, 0, 16, 0, 2 << 2 | 2]);
                // Sums of powers of two that a double holds exactly, so their order is of no account.
                let (mut low, mut high) = (0f64, 0f64);
                for value in registers {
                    let part = f64::from_bits(u64::from(1023 - u16::from(*value)) << 52);
                    if *value < 32 { low += part } else { high += part }
                }
                let zeros = registers.iter().filter(|value| **value == 0).count() as u32;
                [0.0, low, high].iter().for_each(|number| out.extend_from_slice(&number.to_le_bytes()));
                out.extend_from_slice(&zeros.to_le_bytes());
                out.extend_from_slice(&[0; 4]);
                out.extend_from_slice(registers);
            }
        }
        out
    }

    fn estimate(self, seen: &Seen) -> Result<i64> {
        let sketch = HllSketch::deserialize(&self.apache(seen))
            .map_err(|error| DataFusionError::Internal(format!("our own sketch is not read: {error}")))?;
        Ok(sketch.composite_estimate().round() as i64)
    }
}

/// Puts a coupon into a table with a free slot; was it new?
fn place(table: &mut [u32], coupon: u32) -> bool {
    let mask = table.len() - 1;
    let mut at = coupon as usize & mask;
    loop {
        if table[at] == coupon {
            return false;
        }
        if table[at] == 0 {
            table[at] = coupon;
            return true;
        }
        at = (at + 1) & mask;
    }
}

fn sorted(table: &[u32]) -> Vec<u32> {
    let mut coupons: Vec<u32> = table.iter().copied().filter(|coupon| *coupon != 0).collect();
    coupons.sort_unstable();
    coupons
}

impl Kind for Hll {
    type Cell = Seen;

    fn update(&self, cells: &mut [Seen], values: &[ArrayRef], groups: &[usize], filter: Option<&BooleanArray>) -> Result<()> {
        each_value(input(values)?, groups, filter, |group, value| self.add(&mut cells[group], coupon(value)))
    }

    fn encode(&self, cell: &Seen, out: &mut Vec<u8>) {
        match cell {
            Seen::Coupons { table, .. } => {
                out.push(0);
                sorted(table).iter().for_each(|coupon| out.extend_from_slice(&coupon.to_le_bytes()));
            }
            Seen::Registers(registers) => {
                out.push(1);
                out.extend_from_slice(registers);
            }
        }
    }

    fn absorb(&self, cell: &mut Seen, state: &mut Reader<'_>) -> Result<()> {
        let dense = state.byte()? == 1;
        let bytes = state.take(state.0.len())?;
        if dense {
            if bytes.len() != 1 << self.lg_k {
                return Err(damaged("registers of another lg_k"));
            }
            self.densify(cell);
            if let Seen::Registers(registers) = cell {
                registers.iter_mut().zip(bytes).for_each(|(mine, theirs)| *mine = (*mine).max(*theirs));
            }
            return Ok(());
        }
        let (coupons, []) = bytes.as_chunks::<4>() else { return Err(damaged("half a coupon")) };
        for bytes in coupons {
            match u32::from_le_bytes(*bytes) {
                0 => return Err(damaged("an empty coupon")),
                coupon => self.add(cell, coupon),
            }
        }
        Ok(())
    }

    fn finish(&self, cells: Vec<Seen>) -> Result<ArrayRef> {
        Ok(match self.gives {
            Distincts::Estimate => {
                let counts = cells.iter().map(|cell| self.estimate(cell)).collect::<Result<Vec<_>>>()?;
                Arc::new(Int64Array::from(counts))
            }
            Distincts::Sketch => {
                let mut out = BinaryBuilder::new();
                cells.iter().for_each(|cell| out.append_value(self.apache(cell)));
                Arc::new(out.finish())
            }
        })
    }

    fn heap(&self, cell: &Seen) -> usize {
        match cell {
            Seen::Coupons { table, .. } => table.capacity() * 4,
            Seen::Registers(registers) => registers.capacity(),
        }
    }
}

#[cfg(test)]
mod tests {
    use datasketches::hll::HllType;

    use super::*;

    const HLL: Hll = Hll { lg_k: 14, gives: Distincts::Estimate };

    fn ours(range: std::ops::Range<u32>) -> Seen {
        let mut seen = Seen::default();
        range.for_each(|i| HLL.add(&mut seen, coupon(format!("user-{i}").as_bytes())));
        seen
    }

    fn theirs(range: std::ops::Range<u32>) -> HllSketch {
        let mut sketch = HllSketch::new(14, HllType::Hll8).expect("14 is a lg_k");
        range.for_each(|i| sketch.update(raw_bytes::from_str(&format!("user-{i}"))));
        sketch
    }

    #[test]
    fn apache_reads_our_bytes_and_finds_the_very_sketch_that_it_would_have_made() {
        for n in [0, 1, 7, 8, 9, 24, 25, 800, 1536, 1537, 20_000] {
            let read = HllSketch::deserialize(&HLL.apache(&ours(0..n))).expect("Apache's format");
            let made = theirs(0..n);
            assert_eq!(read.composite_estimate(), made.composite_estimate(), "{n}");
            if n <= 1536 {
                assert_eq!(read, made, "{n}");
                assert_eq!(read.serialize().len(), made.serialize().len(), "{n}");
            } else {
                // Past the head only HIP's history differs.
                assert_eq!(read.serialize()[40..], made.serialize()[40..], "{n}");
            }
        }
    }

    #[test]
    fn the_estimate_is_within_three_percent() {
        for n in [10u32, 1_000, 50_000, 200_000] {
            let estimate = HLL.estimate(&ours(0..n)).expect("estimates") as f64;
            assert!((estimate / f64::from(n) - 1.0).abs() < 0.03, "{n}: {estimate}");
        }
    }

    #[test]
    fn merging_in_any_order_gives_the_same_bytes_as_seeing_everything_at_once() {
        for n in [6u32, 1_000, 1_600, 5_000] {
            let mut whole = Vec::new();
            HLL.encode(&ours(0..n), &mut whole);
            let parts = [ours(n / 2..n), ours(0..n / 3), ours(n / 4..n - n / 4)];
            for order in [[0, 1, 2], [2, 0, 1], [1, 2, 0]] {
                let mut merged = Seen::default();
                for part in order {
                    let mut state = Vec::new();
                    HLL.encode(&parts[part], &mut state);
                    HLL.absorb(&mut merged, &mut Reader(&state)).expect("own bytes");
                }
                let mut bytes = Vec::new();
                HLL.encode(&merged, &mut bytes);
                assert!(bytes == whole, "{n} {order:?}");
            }
        }
    }
}
