//! Several samples of one figure, and how far they lie apart.

use serde::{Deserialize, Serialize};

/// The samples of one figure in the order of the rounds, and what they say.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// One a round.
    pub samples: Vec<f64>,
    /// The one in the middle.
    pub median: f64,
    /// The smallest.
    pub min: f64,
    /// The largest.
    pub max: f64,
    /// A quarter is below.
    pub q1: f64,
    /// A quarter is above.
    pub q3: f64,
}

impl Spread {
    /// Of samples; `None` of none.
    pub fn of(samples: Vec<f64>) -> Option<Self> {
        let mut sorted = samples.clone();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let at = |q| quantile(&sorted, q);
        Some(Self { median: at(0.5), min, max, q1: at(0.25), q3: at(0.75), samples })
    }

    /// Whether every sample of one lies above every sample of the other, by more than `least` of the median: no
    /// noise of these runs explains that.
    pub fn differs_from(&self, other: &Self, least: f64) -> bool {
        let apart = self.min > other.max || self.max < other.min;
        apart && (self.median - other.median).abs() > least * other.median.abs()
    }
}

/// The quantile `q` of sorted values, between two of them by their distance. Zero of none.
pub fn quantile(sorted: &[f64], q: f64) -> f64 {
    let place = q * (sorted.len().saturating_sub(1)) as f64;
    let (below, above) = (place.floor() as usize, place.ceil() as usize);
    match (sorted.get(below), sorted.get(above)) {
        (Some(low), Some(high)) => low + (high - low) * place.fract(),
        _ => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_spread_is_that_of_the_sorted_samples() {
        let spread = Spread::of(vec![5.0, 1.0, 2.0, 4.0, 3.0]).unwrap();
        assert_eq!((spread.median, spread.min, spread.max, spread.q1, spread.q3), (3.0, 1.0, 5.0, 2.0, 4.0));
        assert_eq!(spread.samples, [5.0, 1.0, 2.0, 4.0, 3.0]);
        assert_eq!(Spread::of(vec![1.0, 2.0]).unwrap().median, 1.5);
        assert_eq!(Spread::of(Vec::new()), None);
    }

    #[test]
    fn only_what_lies_apart_differs() {
        let spread = |samples: &[f64]| Spread::of(samples.to_vec()).unwrap();
        let old = spread(&[100.0, 102.0, 104.0]);
        assert!(spread(&[120.0, 110.0, 115.0]).differs_from(&old, 0.03));
        assert!(spread(&[80.0, 90.0, 85.0]).differs_from(&old, 0.03));
        assert!(!spread(&[103.0, 120.0, 125.0]).differs_from(&old, 0.03), "they overlap");
        assert!(!spread(&[104.5, 104.6, 104.7]).differs_from(&old, 0.03), "apart, but hardly");
    }
}
