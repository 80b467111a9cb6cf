//! The k best checkpoints: not the last k that were new bests, but the k best seen.

use crate::optim::Direction;

/// The best k of what was admitted, best first; of equals the earlier is better.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct BestK {
    k: usize,
    mode: Direction,
    /// (metric bits, id)
    held: Vec<(u64, String)>,
}

/// What became of an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admission {
    /// Whether it is among the k best.
    pub kept: bool,
    /// Whether it is the best.
    pub best: bool,
    /// Who is no longer among them and can be deleted.
    pub evicted: Option<String>,
}

impl BestK {
    /// Nothing held yet.
    pub fn new(k: usize, mode: Direction) -> BestK {
        BestK { k, mode, held: Vec::new() }
    }

    /// Takes an entry. NaN is never kept.
    pub fn admit(&mut self, value: f64, id: impl Into<String>) -> Admission {
        if value.is_nan() || self.k == 0 {
            return Admission { kept: false, best: false, evicted: None };
        }
        let not_worse = |held: f64| match self.mode {
            Direction::Min => held <= value,
            Direction::Max => held >= value,
        };
        let at = self.held.iter().take_while(|(bits, _)| not_worse(f64::from_bits(*bits))).count();
        if at >= self.k {
            return Admission { kept: false, best: false, evicted: None };
        }
        self.held.insert(at, (value.to_bits(), id.into()));
        let evicted = if self.held.len() > self.k { self.held.pop().map(|(_, id)| id) } else { None };
        Admission { kept: true, best: at == 0, evicted }
    }

    /// Forgets an entry, as if it had never been admitted. Whoever it had pushed out does not come back by itself.
    pub fn withdraw(&mut self, id: &str) {
        self.held.retain(|(_, held)| held != id);
    }

    /// (metric, id), best first.
    pub fn held(&self) -> impl Iterator<Item = (f64, &str)> {
        self.held.iter().map(|(bits, id)| (f64::from_bits(*bits), id.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_best_not_the_latest_bests() {
        let mut best = BestK::new(2, Direction::Min);
        assert_eq!(best.admit(1.0, "a"), Admission { kept: true, best: true, evicted: None });
        assert_eq!(best.admit(3.0, "b"), Admission { kept: true, best: false, evicted: None });
        assert_eq!(best.admit(2.0, "c"), Admission { kept: true, best: false, evicted: Some("b".into()) });
        assert_eq!(best.admit(2.0, "d"), Admission { kept: false, best: false, evicted: None });
        assert!(!best.admit(f64::NAN, "e").kept);
        assert_eq!(best.admit(0.5, "f"), Admission { kept: true, best: true, evicted: Some("c".into()) });
        assert_eq!(best.held().collect::<Vec<_>>(), [(0.5, "f"), (1.0, "a")]);
        let mut most = BestK::new(1, Direction::Max);
        assert!(most.admit(1.0, "a").best && most.admit(2.0, "b").best && !most.admit(1.5, "c").kept);
        best.withdraw("f");
        assert_eq!(best.admit(2.0, "c"), Admission { kept: true, best: false, evicted: None });
    }
}
