//! Numbers in rising order, as `f64::total_cmp` has it.

/// From so many on, digits are faster than comparisons.
const MANY: usize = 4096;
const DIGIT_BITS: u32 = 11;
const BUCKETS: usize = 1 << DIGIT_BITS;
const DIGITS: usize = u64::BITS.div_ceil(DIGIT_BITS) as usize;

/// Sorts in place.
pub fn sort(numbers: &mut [f64]) {
    if numbers.len() < MANY {
        numbers.sort_unstable_by(f64::total_cmp);
        return;
    }
    let mut keys: Vec<u64> = numbers.iter().map(|number| key(*number)).collect();
    sort_keys(&mut keys);
    for (number, key) in numbers.iter_mut().zip(keys) {
        *number = of_key(key);
    }
}

/// Sorts whole numbers; many by their digits, lowest first (Knuth, The Art of Computer Programming 3, 5.2.5), with a copy
/// of them beside.
pub fn sort_keys(keys: &mut Vec<u64>) {
    if keys.len() < MANY {
        keys.sort_unstable();
        return;
    }
    let mut counts = vec![[0usize; BUCKETS]; DIGITS];
    for key in &*keys {
        for (digit, count) in counts.iter_mut().enumerate() {
            count[bucket(*key, digit)] += 1;
        }
    }
    let mut beside = vec![0u64; keys.len()];
    for (digit, count) in counts.iter_mut().enumerate() {
        // A digit that all have alike moves nothing.
        if count[bucket(keys[0], digit)] == keys.len() {
            continue;
        }
        let mut next = 0;
        for place in count.iter_mut() {
            next += std::mem::replace(place, next);
        }
        for key in &*keys {
            let place = &mut count[bucket(*key, digit)];
            beside[*place] = *key;
            *place += 1;
        }
        std::mem::swap(keys, &mut beside);
    }
}

fn bucket(key: u64, digit: usize) -> usize {
    (key >> (digit as u32 * DIGIT_BITS)) as usize & (BUCKETS - 1)
}

/// Bits that compare, as a whole number, as the float does: those of negative ones turned over, the others above them.
fn key(number: f64) -> u64 {
    let bits = number.to_bits();
    if bits >> 63 == 1 { !bits } else { bits | 1 << 63 }
}

fn of_key(key: u64) -> f64 {
    f64::from_bits(if key >> 63 == 1 { key & !(1 << 63) } else { !key })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bits(numbers: &[f64]) -> Vec<u64> {
        numbers.iter().map(|number| number.to_bits()).collect()
    }

    fn check(mut numbers: Vec<f64>) {
        let mut expected = numbers.clone();
        expected.sort_unstable_by(f64::total_cmp);
        sort(&mut numbers);
        assert_eq!(bits(&numbers), bits(&expected));
    }

    #[test]
    fn zeros_infinities_and_nans_of_both_signs_have_their_places() {
        let odd = [0.0, -0.0, f64::NAN, -f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 5e-324, -5e-324, 1.0, -1.0];
        check(odd.iter().copied().cycle().take(MANY + 7).collect());
        check(vec![3.5; MANY]);
        check((0..2 * MANY).map(|at| at as f64 % 7.0 - 3.0).collect());
    }

    proptest! {
        #[test]
        fn the_order_is_that_of_comparisons(bits in prop::collection::vec(any::<u64>(), 0..2 * MANY)) {
            check(bits.into_iter().map(f64::from_bits).collect());
        }
    }
}
