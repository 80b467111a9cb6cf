//! How far two samples of one variable lie apart: the population stability index over bins that are frozen on the
//! reference, with what it would be by chance, and the Kolmogorov-Smirnov statistic.

/// Share of chance at which the null quantile is given.
pub const NULL_PROBABILITY: f64 = 0.95;
/// Added to the count of each bin of both samples, so that an empty one has a logarithm.
const PSEUDO_COUNT: f64 = 0.5;
/// A series or continued fraction of the incomplete gamma function ends here at the latest.
const MAX_TERMS: usize = 10_000;

/// Edges between bins of about equal counts of the reference: bin i holds what is above edge i - 1 and not above edge
/// i; the first and the last bin have no outer edge. Equal values make fewer bins.
pub fn quantile_edges(reference: &[f64], bins: usize) -> Vec<f64> {
    let mut sorted: Vec<f64> = reference.iter().copied().filter(|value| !value.is_nan()).collect();
    sorted.sort_unstable_by(f64::total_cmp);
    let mut edges = Vec::new();
    for bin in 1..bins {
        let at = (sorted.len() * bin).div_ceil(bins);
        if let Some(&edge) = at.checked_sub(1).and_then(|at| sorted.get(at))
            && edges.last().is_none_or(|&last| edge > last)
            && sorted.last().is_some_and(|&most| edge < most)
        {
            edges.push(edge);
        }
    }
    edges
}

/// How many values fall into each bin; NaN into none.
pub fn bin_counts(values: &[f64], edges: &[f64]) -> Vec<u64> {
    let mut counts = vec![0; edges.len() + 1];
    for value in values.iter().filter(|value| !value.is_nan()) {
        counts[edges.partition_point(|edge| edge < value)] += 1;
    }
    counts
}

/// Sum over the bins of (q - p) ln(q / p), where p and q are the shares of reference and other sample. None where one
/// of them is empty, or there is one bin only.
pub fn psi(reference: &[u64], other: &[u64]) -> Option<f64> {
    let (n, m): (u64, u64) = (reference.iter().sum(), other.iter().sum());
    if n == 0 || m == 0 || reference.len() != other.len() || reference.len() < 2 {
        return None;
    }
    let pseudo = PSEUDO_COUNT * reference.len() as f64;
    let share = |count: u64, total: u64| (count as f64 + PSEUDO_COUNT) / (total as f64 + pseudo);
    let terms = reference.iter().zip(other).map(|(&a, &b)| {
        let (p, q) = (share(a, n), share(b, m));
        (q - p) * (q / p).ln()
    });
    Some(terms.sum())
}

/// What the index stays below with [`NULL_PROBABILITY`] where both samples are of one distribution: without drift it
/// is about (1 / n + 1 / m) times a chi-square variable of bins - 1 degrees of freedom (Yurdakul, 2018).
pub fn psi_null_quantile(n: u64, m: u64, bins: usize) -> Option<f64> {
    if n == 0 || m == 0 || bins < 2 {
        return None;
    }
    Some((1.0 / n as f64 + 1.0 / m as f64) * chi_square_quantile(NULL_PROBABILITY, (bins - 1) as f64))
}

/// The largest distance between the two empirical distribution functions; NaN is left out. None where one is empty.
pub fn ks_statistic(reference: &[f64], other: &[f64]) -> Option<f64> {
    let sorted = |values: &[f64]| {
        let mut sorted: Vec<f64> = values.iter().copied().filter(|value| !value.is_nan()).collect();
        sorted.sort_unstable_by(f64::total_cmp);
        sorted
    };
    let (a, b) = (sorted(reference), sorted(other));
    if a.is_empty() || b.is_empty() {
        return None;
    }
    let (mut i, mut j, mut largest) = (0, 0, 0.0f64);
    while i < a.len() && j < b.len() {
        let value = a[i].min(b[j]);
        // Past all equal values of both, where the functions have both risen.
        i += a[i..].iter().take_while(|other| **other <= value).count();
        j += b[j..].iter().take_while(|other| **other <= value).count();
        largest = largest.max((i as f64 / a.len() as f64 - j as f64 / b.len() as f64).abs());
    }
    Some(largest)
}

/// The value that a chi-square variable stays below with probability `p`, to about 12 digits.
pub fn chi_square_quantile(p: f64, degrees: f64) -> f64 {
    let (mut low, mut high) = (0.0, degrees.max(1.0));
    while regularized_gamma(degrees / 2.0, high / 2.0) < p {
        high *= 2.0;
    }
    for _ in 0..200 {
        let middle = 0.5 * (low + high);
        if regularized_gamma(degrees / 2.0, middle / 2.0) < p {
            low = middle
        } else {
            high = middle
        }
        if high - low <= 1e-13 * high {
            break;
        }
    }
    0.5 * (low + high)
}

/// P(a, x), the regularized lower incomplete gamma function: a series below a + 1, a continued fraction above
/// (Numerical Recipes, 6.2).
fn regularized_gamma(a: f64, x: f64) -> f64 {
    if x <= 0.0 {
        return 0.0;
    }
    let scale = (a * x.ln() - x - ln_gamma(a)).exp();
    if x < a + 1.0 {
        let (mut term, mut sum, mut n) = (1.0 / a, 1.0 / a, a);
        for _ in 0..MAX_TERMS {
            n += 1.0;
            term *= x / n;
            sum += term;
            if term < sum * 1e-16 {
                break;
            }
        }
        return (sum * scale).min(1.0);
    }
    const TINY: f64 = 1e-300;
    let mut b = x + 1.0 - a;
    let mut c = 1.0 / TINY;
    let mut d = 1.0 / b;
    let mut fraction = d;
    for n in 1..MAX_TERMS {
        let n = n as f64;
        let an = -n * (n - a);
        b += 2.0;
        let bounded = |value: f64| if value.abs() < TINY { TINY } else { value };
        d = 1.0 / bounded(an * d + b);
        c = bounded(b + an / c);
        fraction *= d * c;
        if (d * c - 1.0).abs() < 1e-16 {
            break;
        }
    }
    1.0 - fraction * scale
}

/// ln Gamma(x) for x > 0 (Lanczos, g = 7, 9 terms).
fn ln_gamma(x: f64) -> f64 {
    const TERMS: [f64; 8] = [
        676.520_368_121_885_1,
        -1_259.139_216_722_402_8,
        771.323_428_777_653_1,
        -176.615_029_162_140_6,
        12.507_343_278_686_905,
        -0.138_571_095_265_720_12,
        9.984_369_578_019_572e-6,
        1.505_632_735_149_311_6e-7,
    ];
    if x < 0.5 {
        let pi = std::f64::consts::PI;
        return (pi / (pi * x).sin()).ln() - ln_gamma(1.0 - x);
    }
    let x = x - 1.0;
    let sum =
        TERMS.iter().enumerate().fold(0.999_999_999_999_809_9, |sum, (i, term)| sum + term / (x + i as f64 + 1.0));
    let t = x + 7.5;
    0.5 * (2.0 * std::f64::consts::PI).ln() + (x + 0.5) * t.ln() - t + sum.ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(found: f64, expected: f64, tolerance: f64) {
        assert!((found - expected).abs() <= tolerance * expected.abs().max(1e-12), "{found}, expected {expected}");
    }

    /// Values of scipy.stats.chi2.ppf.
    #[test]
    fn quantiles_of_chi_square() {
        for (p, degrees, expected) in [
            (0.95, 1.0, 3.841_458_820_694_124),
            (0.95, 9.0, 16.918_977_604_620_448),
            (0.95, 99.0, 123.225_221_453_361_8),
            (0.5, 9.0, 8.342_832_692_252_955),
            (0.95, 1_000.0, 1_074.679_448_803_441),
        ] {
            near(chi_square_quantile(p, degrees), expected, 1e-10);
        }
    }

    #[test]
    fn bins_are_frozen_on_the_reference() {
        let reference: Vec<f64> = (0..100).map(f64::from).collect();
        let edges = quantile_edges(&reference, 10);
        assert_eq!(edges, [9.0, 19.0, 29.0, 39.0, 49.0, 59.0, 69.0, 79.0, 89.0]);
        assert_eq!(bin_counts(&reference, &edges), [10; 10]);
        // What the reference never had falls into the outer bins.
        assert_eq!(bin_counts(&[-1e9, 1e9, f64::NAN, 9.0, 9.5], &edges), [2, 1, 0, 0, 0, 0, 0, 0, 0, 1]);
        assert!(quantile_edges(&[1.0; 50], 10).is_empty(), "one value, one bin");
        assert_eq!(quantile_edges(&[0.0, 0.0, 0.0, 1.0], 10), [0.0]);
        assert!(quantile_edges(&[], 10).is_empty());
    }

    #[test]
    fn indices_and_statistics() {
        // By hand: counts + 0.5 over totals + 1.
        let expected = (35.5 / 101.0 - 60.5 / 101.0f64) * (35.5f64 / 60.5).ln()
            + (65.5 / 101.0 - 40.5 / 101.0f64) * (65.5f64 / 40.5).ln();
        near(psi(&[60, 40], &[35, 65]).expect("defined"), expected, 1e-12);
        assert_eq!(psi(&[60, 40], &[60, 40]), Some(0.0));
        assert_eq!((psi(&[0, 0], &[1, 1]), psi(&[5], &[5]), psi_null_quantile(0, 1, 10)), (None, None, None));
        near(psi_null_quantile(100, 100, 10).expect("defined"), 0.02 * 16.918_977_604_620_448, 1e-10);

        // scipy.stats.ks_2samp: ties within and between the samples.
        near(ks_statistic(&[1.0, 2.0, 2.0, 3.0], &[2.0, 3.0, 4.0]).expect("defined"), 5.0 / 12.0, 1e-12);
        assert_eq!(ks_statistic(&[1.0, 2.0], &[3.0, f64::NAN]), Some(1.0));
        assert_eq!(ks_statistic(&[1.0, 2.0], &[2.0, 1.0]), Some(0.0));
        assert_eq!(ks_statistic(&[], &[1.0]), None);
    }

    /// Without drift the index is above its null quantile about one time in twenty.
    #[test]
    fn the_null_quantile_is_one() {
        let (runs, n) = (2_000, 400);
        let sample = |lane: u64| -> Vec<f64> {
            let stream = crate::philox::Stream::Split;
            crate::philox::permutation(11, stream, lane, 1 << 14).into_iter().take(n).map(f64::from).collect()
        };
        let limit = psi_null_quantile(n as u64, n as u64, 10).expect("defined");
        let above = (0..runs / 20)
            .map(|run| {
                let (reference, other) = (sample(2 * run), sample(2 * run + 1));
                let edges = quantile_edges(&reference, 10);
                psi(&bin_counts(&reference, &edges), &bin_counts(&other, &edges)).expect("defined")
            })
            .filter(|index| *index > limit)
            .count();
        assert!((1..=12).contains(&above), "{above} of {}", runs / 20);
    }
}
