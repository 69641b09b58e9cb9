//! Exact sums of doubles: a fixed-point number wide enough for every double and every square of one, rounded once at the end.
//!
//! A superaccumulator (Kulisch): addition of integers is associative and commutative, so no order, cut or merge tree shows in the
//! result. Only the digits in use are kept, so a sum of prices costs five digits and not 140.
//!
//! Owns: adding, merging, canonical bytes, the one rounding. Does not own: counts and NULLs (doubles).

use std::cmp::Ordering;

use datafusion::common::Result;

use super::cells::{Reader, damaged, put_number};

/// Digit i has the weight 2^(32 i - ORIGIN); a multiple of 32 that reaches below the square of the smallest double (2^-2148).
const ORIGIN: i64 = 2176;
const NAN: u8 = 1;
const PLUS_INFINITY: u8 = 2;
const MINUS_INFINITY: u8 = 4;
const NEGATIVE: u8 = 8;
/// A limb takes 2^31 digits of 32 bits before it could overflow.
const PENDING_MAX: u32 = 1 << 30;

/// An exact sum.
#[derive(Clone, Default, Debug)]
pub(crate) struct Exact {
    /// Base 2^32, least significant first, carries outstanding.
    limbs: Vec<i64>,
    /// Index of the first limb.
    first: i32,
    /// Additions since the carries were last resolved.
    pending: u32,
    /// Infinities and NaN seen.
    special: u8,
}

impl Exact {
    /// Adds a double.
    #[inline]
    pub(crate) fn add(&mut self, value: f64) {
        match parts(value) {
            Ok((mantissa, exponent)) => self.add_scaled(u128::from(mantissa), exponent, value.is_sign_negative()),
            Err(special) => self.special |= special,
        }
    }

    /// Adds the square of a double, exactly: 53 bits squared are 106.
    #[inline]
    pub(crate) fn add_square(&mut self, value: f64) {
        match parts(value) {
            Ok((mantissa, exponent)) => {
                let square = u128::from(mantissa) * u128::from(mantissa);
                self.add_scaled(square & u128::from(u64::MAX), 2 * exponent, false);
                self.add_scaled(square >> 64, 2 * exponent + 64, false);
            }
            Err(NAN) => self.special |= NAN,
            Err(_) => self.special |= PLUS_INFINITY,
        }
    }

    /// Adds ± amount × 2^exponent; the amount has at most 64 bits, so it touches three digits.
    #[inline]
    fn add_scaled(&mut self, amount: u128, exponent: i64, negative: bool) {
        if amount == 0 {
            return;
        }
        let place = exponent + ORIGIN;
        let (digit, shift) = ((place >> 5) as i32, (place & 31) as u32);
        let mut shifted = amount << shift;
        let at = self.reach(digit, 3);
        for limb in &mut self.limbs[at..at + 3] {
            let part = (shifted & 0xffff_ffff) as i64;
            *limb += if negative { -part } else { part };
            shifted >>= 32;
        }
        self.count_one();
    }

    /// Makes digits `digit .. digit + len` present; where they lie.
    #[inline]
    fn reach(&mut self, digit: i32, len: usize) -> usize {
        if self.limbs.is_empty() {
            self.first = digit;
        } else if digit < self.first {
            let missing = (self.first - digit) as usize;
            self.limbs.splice(0..0, std::iter::repeat_n(0, missing));
            self.first = digit;
        }
        let at = (digit - self.first) as usize;
        if self.limbs.len() < at + len {
            self.limbs.resize(at + len, 0);
        }
        at
    }

    #[inline]
    fn count_one(&mut self) {
        self.pending += 1;
        if self.pending >= PENDING_MAX {
            self.carry();
        }
    }

    /// Resolves carries: every limb but the last lies in 0..2^32 afterwards, the last is signed.
    fn carry(&mut self) {
        let mut carry = 0i64;
        for limb in &mut self.limbs {
            let value = *limb + carry;
            *limb = value & 0xffff_ffff;
            carry = value >> 32;
        }
        self.limbs.push(carry);
        self.pending = 1;
    }

    /// Sign and magnitude, without zero digits at either end.
    fn settled(&self) -> Magnitude {
        let mut sum = self.clone();
        sum.carry();
        let negative = sum.limbs.last().is_some_and(|top| *top < 0);
        if negative {
            for limb in &mut sum.limbs {
                *limb = -*limb;
            }
            sum.carry();
        }
        Magnitude { negative, first: sum.first, digits: sum.limbs.iter().map(|limb| *limb as u32).collect() }.trimmed()
    }

    /// Canonical bytes: a function of the exact sum alone.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        let magnitude = self.settled();
        out.push(self.special | if magnitude.negative { NEGATIVE } else { 0 });
        put_number(magnitude.digits.len() as u64, out);
        if !magnitude.digits.is_empty() {
            // Digits start at or after 0: the smallest square lies above 2^-ORIGIN.
            put_number(magnitude.first as u64, out);
            magnitude.digits.iter().for_each(|digit| out.extend_from_slice(&digit.to_le_bytes()));
        }
    }

    /// Adds a written sum.
    pub(crate) fn absorb(&mut self, state: &mut Reader<'_>) -> Result<()> {
        let flags = state.byte()?;
        self.special |= flags & (NAN | PLUS_INFINITY | MINUS_INFINITY);
        let len = state.length()?;
        if len == 0 {
            return Ok(());
        }
        let first = state.length()?;
        if len > 200 || first > 200 {
            return Err(damaged("a sum wider than any"));
        }
        let at = self.reach(first as i32, len);
        for limb in &mut self.limbs[at..at + len] {
            let digit = i64::from(u32::from_le_bytes(state.array()?));
            *limb += if flags & NEGATIVE != 0 { -digit } else { digit };
        }
        self.count_one();
        Ok(())
    }

    /// What infinities and NaN make of the sum, if any were seen.
    fn special(&self) -> Option<f64> {
        if self.special & NAN != 0 || self.special & (PLUS_INFINITY | MINUS_INFINITY) == PLUS_INFINITY | MINUS_INFINITY {
            Some(f64::NAN)
        } else if self.special & PLUS_INFINITY != 0 {
            Some(f64::INFINITY)
        } else if self.special & MINUS_INFINITY != 0 {
            Some(f64::NEG_INFINITY)
        } else {
            None
        }
    }

    /// The sum, rounded once (half to even). An exact zero is +0.0.
    pub(crate) fn sum(&self) -> f64 {
        self.special().unwrap_or_else(|| self.settled().rounded(false))
    }

    /// sum / count, rounded once.
    pub(crate) fn mean(&self, count: u64) -> f64 {
        self.special().unwrap_or_else(|| self.settled().divided(&[count]))
    }

    /// Variance from the sums of `count` values and of their squares: (n Σx² - (Σx)²) / (n (n - ddof)), exact, rounded once.
    pub(crate) fn variance(sum: &Self, squares: &Self, count: u64, ddof: u64) -> f64 {
        if sum.special != 0 || squares.special != 0 {
            return f64::NAN;
        }
        let scaled = squares.settled().times(count);
        scaled.minus(&sum.settled().squared()).divided(&[count, count - ddof])
    }

    /// Bytes beside the struct.
    pub(crate) fn heap(&self) -> usize {
        self.limbs.capacity() * 8
    }
}

/// Mantissa and exponent of its last bit, or the flag of what has none.
#[inline]
fn parts(value: f64) -> Result<(u64, i64), u8> {
    let bits = value.to_bits();
    let (field, fraction) = ((bits >> 52) & 0x7ff, bits & ((1 << 52) - 1));
    match field {
        0x7ff if fraction != 0 => Err(NAN),
        0x7ff if value > 0.0 => Err(PLUS_INFINITY),
        0x7ff => Err(MINUS_INFINITY),
        0 => Ok((fraction, -1074)),
        _ => Ok((fraction | 1 << 52, field as i64 - 1075)),
    }
}

/// A natural number of 32-bit digits, least significant first, times 2^(32 first - ORIGIN), with a sign.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Magnitude {
    negative: bool,
    first: i32,
    digits: Vec<u32>,
}

impl Magnitude {
    fn trimmed(mut self) -> Self {
        while self.digits.last() == Some(&0) {
            self.digits.pop();
        }
        let zeros = self.digits.iter().take_while(|digit| **digit == 0).count();
        self.digits.drain(..zeros);
        self.first += zeros as i32;
        if self.digits.is_empty() {
            return Self { negative: false, first: 0, digits: Vec::new() };
        }
        self
    }

    fn times(self, factor: u64) -> Self {
        let mut digits = Vec::with_capacity(self.digits.len() + 2);
        let mut carry = 0u128;
        for digit in self.digits {
            carry += u128::from(digit) * u128::from(factor);
            digits.push(carry as u32);
            carry >>= 32;
        }
        while carry != 0 {
            digits.push(carry as u32);
            carry >>= 32;
        }
        Self { digits, ..self }.trimmed()
    }

    fn squared(&self) -> Self {
        let mut digits = vec![0u32; self.digits.len() * 2];
        for (i, a) in self.digits.iter().enumerate() {
            let mut carry = 0u64;
            for (j, b) in self.digits.iter().enumerate() {
                carry += u64::from(digits[i + j]) + u64::from(*a) * u64::from(*b);
                digits[i + j] = carry as u32;
                carry >>= 32;
            }
            digits[i + self.digits.len()] = carry as u32;
        }
        // (2^(32 f - ORIGIN))² = 2^(32 (2 f - ORIGIN / 32) - ORIGIN)
        Self { negative: false, first: 2 * self.first - (ORIGIN / 32) as i32, digits }.trimmed()
    }

    /// self - other for two naturals where self is not smaller (Cauchy-Schwarz sees to it).
    fn minus(self, other: &Self) -> Self {
        if other.digits.is_empty() {
            return self;
        }
        let first = self.first.min(other.first);
        let digit =
            |of: &Self, at: i32| usize::try_from(at - of.first).ok().and_then(|at| of.digits.get(at)).copied().unwrap_or(0);
        let end = (self.first + self.digits.len() as i32).max(other.first + other.digits.len() as i32);
        let mut borrow = 0i64;
        let digits = (first..end)
            .map(|at| {
                let value = i64::from(digit(&self, at)) - i64::from(digit(other, at)) + borrow;
                borrow = value >> 32;
                value as u32
            })
            .collect();
        Self { negative: false, first, digits }.trimmed()
    }

    /// Quotient by all divisors, rounded once: floors nest, and what they drop is remembered as one sticky bit.
    fn divided(mut self, divisors: &[u64]) -> f64 {
        if self.digits.is_empty() {
            return 0.0;
        }
        // Two divisors of 64 bits eat at most 128 bits; 66 more are kept.
        let spare = 2 * divisors.len() + 4;
        self.digits.splice(0..0, std::iter::repeat_n(0, spare));
        self.first -= spare as i32;
        let mut sticky = false;
        for divisor in divisors {
            let mut rest = 0u128;
            for digit in self.digits.iter_mut().rev() {
                let part = (rest << 32) | u128::from(*digit);
                *digit = (part / u128::from(*divisor)) as u32;
                rest = part % u128::from(*divisor);
            }
            sticky |= rest != 0;
        }
        while self.digits.last() == Some(&0) {
            self.digits.pop();
        }
        self.rounded(sticky)
    }

    fn bit(&self, at: i64) -> bool {
        usize::try_from(at >> 5).ok().and_then(|digit| self.digits.get(digit)).is_some_and(|digit| digit >> (at & 31) & 1 == 1)
    }

    /// Nearest double, half to even. `sticky`: the number is a little larger than its digits say.
    fn rounded(&self, sticky: bool) -> f64 {
        let Some(top) = self.digits.last() else { return 0.0 };
        let bits = 32 * self.digits.len() as i64 - i64::from(top.leading_zeros());
        let lowest = 32 * i64::from(self.first) - ORIGIN;
        // Exponent of the result's last bit.
        let last = (lowest + bits - 53).max(-1074);
        let drop = last - lowest;
        let mut mantissa = (0..53).rev().fold(0u64, |mantissa, at| (mantissa << 1) | u64::from(self.bit(drop + at)));
        if drop > 0 && self.bit(drop - 1) {
            let below = sticky || (0..drop - 1).any(|at| self.bit(at));
            match (below, mantissa & 1) {
                (false, 0) => {}
                _ => mantissa += 1,
            }
        }
        // A mantissa of 2^53 carries into the exponent field by itself.
        let field = ((last + 1074) as u64).checked_shl(52).unwrap_or(u64::MAX);
        let magnitude = match field.checked_add(mantissa) {
            Some(bits) if last <= 971 && bits < 0x7ff << 52 => f64::from_bits(bits),
            Some(_) | None => f64::INFINITY,
        };
        match self.negative {
            true => -magnitude,
            false => magnitude,
        }
    }
}

/// num / den to the nearest double, half to even; `den` is positive.
pub(crate) fn ratio(num: i128, den: i64) -> f64 {
    let size = num.unsigned_abs();
    if size == 0 {
        return 0.0;
    }
    let shift = size.leading_zeros();
    let (quotient, rest) = ((size << shift) / den as u128, (size << shift) % den as u128);
    // At least 64 bits: the sticky bit lies well below the rounding bit, and scaling by a power of two is exact.
    let value = (quotient | u128::from(rest != 0)) as f64 * f64::from_bits(u64::from(1023 - shift) << 52);
    match num.cmp(&0) {
        Ordering::Less => -value,
        Ordering::Equal | Ordering::Greater => value,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sum_of(values: &[f64]) -> Exact {
        let mut sum = Exact::default();
        values.iter().for_each(|value| sum.add(*value));
        sum
    }

    fn bytes(sum: &Exact) -> Vec<u8> {
        let mut out = Vec::new();
        sum.encode(&mut out);
        out
    }

    #[test]
    fn cancellation_loses_nothing() {
        let sum = sum_of(&[1e300, 1.0, -1e300, 1e-300, -1.0]);
        assert_eq!(sum.sum(), 1e-300);
        assert_eq!(bytes(&sum), bytes(&sum_of(&[1e-300])));
        assert_eq!(sum_of(&[f64::MAX, f64::MAX, -f64::MAX]).sum(), f64::MAX);
        assert_eq!(sum_of(&[f64::MAX, f64::MAX]).sum(), f64::INFINITY);
        assert_eq!(sum_of(&[-0.0, -0.0]).sum().to_bits(), 0);
    }

    #[test]
    fn infinities_and_nan_come_out_as_ieee_says_in_any_order() {
        assert!(sum_of(&[f64::INFINITY, f64::NEG_INFINITY]).sum().is_nan());
        assert!(sum_of(&[f64::NAN, 1.0]).sum().is_nan());
        assert_eq!(sum_of(&[1.0, f64::NEG_INFINITY]).sum(), f64::NEG_INFINITY);
    }

    #[test]
    fn halves_round_to_even() {
        let one = 1u64 << 53;
        assert_eq!(sum_of(&[one as f64, 1.0]).sum(), one as f64);
        assert_eq!(sum_of(&[one as f64, 1.0, 2f64.powi(-1074)]).sum(), (one + 2) as f64);
        assert_eq!(sum_of(&[(one + 2) as f64, 1.0]).sum(), (one + 4) as f64);
        assert_eq!(sum_of(&[-(one as f64), -3.0]).sum(), -((one + 4) as f64));
    }

    proptest! {
        #[test]
        fn one_double_comes_back_unchanged(bits: u64) {
            let value = f64::from_bits(bits);
            prop_assume!(value.is_finite() && value != 0.0);
            prop_assert_eq!(sum_of(&[value]).sum().to_bits(), bits);
            prop_assert_eq!(sum_of(&[value]).mean(1).to_bits(), bits);
        }

        #[test]
        fn two_doubles_add_as_the_processor_adds_them(a: f64, b: f64) {
            let (ours, theirs) = (sum_of(&[a, b]).sum(), a + b);
            let alike = (ours.is_nan() && theirs.is_nan()) || (ours == 0.0 && theirs == 0.0);
            prop_assert!(alike || ours.to_bits() == theirs.to_bits());
        }

        #[test]
        fn sums_means_and_variances_of_integers_are_what_integers_say(
            values in prop::collection::vec(-1_000_000_000i64..1_000_000_000, 2..60),
        ) {
            let doubles: Vec<f64> = values.iter().map(|value| *value as f64).collect();
            let sum = sum_of(&doubles);
            let mut squares = Exact::default();
            doubles.iter().for_each(|value| squares.add_square(*value));
            let total: i128 = values.iter().map(|value| i128::from(*value)).sum();
            let n = values.len() as i128;
            let top = n * values.iter().map(|value| i128::from(*value) * i128::from(*value)).sum::<i128>() - total * total;
            prop_assert_eq!(sum.sum(), total as f64);
            prop_assert_eq!(sum.mean(n as u64), ratio(total, n as i64));
            prop_assert_eq!(Exact::variance(&sum, &squares, n as u64, 1), ratio(top, (n * (n - 1)) as i64));
            prop_assert_eq!(Exact::variance(&sum, &squares, n as u64, 0), ratio(top, (n * n) as i64));
        }

        #[test]
        fn a_ratio_of_small_integers_is_the_processors_quotient(a in -(1i64 << 53)..(1 << 53), b in 1i64..(1 << 53)) {
            prop_assert_eq!(ratio(i128::from(a), b), a as f64 / b as f64);
        }

        #[test]
        fn no_split_of_the_values_shows_in_the_bytes(values: Vec<f64>, cut: prop::sample::Index) {
            let cut = cut.index(values.len() + 1);
            let mut merged = Exact::default();
            for part in [&values[cut..], &values[..cut]] {
                let state = bytes(&sum_of(part));
                let mut reader = Reader(&state);
                merged.absorb(&mut reader).expect("own bytes");
                prop_assert!(reader.0.is_empty());
            }
            prop_assert_eq!(bytes(&merged), bytes(&sum_of(&values)));
        }
    }
}
