//! What is measured, in the form in which it leaves the media core: numbers with bounded labels, and histograms.

/// What a series is about beyond its name: words out of fixed sets.
pub type Labels = Vec<(&'static str, &'static str)>;

/// Most buckets of a histogram, without the one beyond the last bound.
pub const MAX_BOUNDS: usize = 15;

/// How often values fell into which range. Nothing is allocated to observe one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Histogram {
    bounds: &'static [u64],
    counts: [u64; MAX_BOUNDS + 1],
    sum: u64,
}

impl Histogram {
    /// An empty one; a value belongs to the first bound that it does not exceed, or beyond the last.
    pub const fn new(bounds: &'static [u64]) -> Self {
        assert!(bounds.len() <= MAX_BOUNDS);
        Self { bounds, counts: [0; MAX_BOUNDS + 1], sum: 0 }
    }

    /// Takes a value that was seen `times`.
    pub fn observe(&mut self, value: u64, times: u64) {
        let bucket = self.bounds.iter().position(|bound| value <= *bound).unwrap_or(self.bounds.len());
        self.counts[bucket] += times;
        self.sum = self.sum.saturating_add(value.saturating_mul(times));
    }

    /// Takes all that another one with the same bounds took.
    pub fn add(&mut self, other: &Self) {
        debug_assert_eq!(self.bounds, other.bounds);
        self.counts.iter_mut().zip(other.counts).for_each(|(count, more)| *count += more);
        self.sum = self.sum.saturating_add(other.sum);
    }

    /// The upper bounds.
    pub fn bounds(&self) -> &'static [u64] {
        self.bounds
    }

    /// How many fell under each bound and above the one before; the last is what lies beyond.
    pub fn counts(&self) -> &[u64] {
        &self.counts[..=self.bounds.len()]
    }

    /// All values together.
    pub fn sum(&self) -> u64 {
        self.sum
    }

    /// How many values there were.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }
}

/// A series' name, what it means, and its labels. Names say the unit; those that end in `_total` only grow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Series<T> {
    /// Its name, the same for all labels.
    pub name: &'static str,
    /// One sentence.
    pub help: &'static str,
    /// Its labels.
    pub labels: Labels,
    /// What was measured.
    pub value: T,
}

/// All that one thread measured, at one moment.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Counters and gauges.
    pub numbers: Vec<Series<u64>>,
    /// Histograms.
    pub histograms: Vec<Series<Histogram>>,
}

impl Snapshot {
    /// Adds a number.
    pub fn number(&mut self, name: &'static str, help: &'static str, labels: Labels, value: u64) {
        self.numbers.push(Series { name, help, labels, value });
    }

    /// Adds a histogram.
    pub fn histogram(&mut self, name: &'static str, help: &'static str, labels: Labels, value: &Histogram) {
        self.histograms.push(Series { name, help, labels, value: *value });
    }

    /// Adds another thread's: series of the same name and labels become one.
    pub fn add(&mut self, other: &Self) {
        merge(&mut self.numbers, &other.numbers, |here, there| *here += there);
        merge(&mut self.histograms, &other.histograms, Histogram::add);
    }
}

fn merge<T: Clone>(here: &mut Vec<Series<T>>, there: &[Series<T>], add: impl Fn(&mut T, &T)) {
    for series in there {
        match here.iter_mut().find(|known| known.name == series.name && known.labels == series.labels) {
            Some(known) => add(&mut known.value, &series.value),
            None => here.push(series.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_fall_under_the_first_bound_that_they_do_not_exceed() {
        let mut histogram = Histogram::new(&[10, 20]);
        for value in [0, 10, 11, 20, 21] {
            histogram.observe(value, 1);
        }
        histogram.observe(15, 3);
        assert_eq!(histogram.counts(), [2, 5, 1]);
        assert_eq!((histogram.count(), histogram.sum()), (8, 107));
    }

    #[test]
    fn what_two_threads_measured_is_one() {
        let snapshot = |value, label| {
            let mut histogram = Histogram::new(&[10]);
            histogram.observe(value, 1);
            let mut snapshot = Snapshot::default();
            snapshot.number("packets_total", "Packets.", vec![("kind", label)], value);
            snapshot.histogram("length", "Lengths.", vec![], &histogram);
            snapshot
        };
        let mut all = snapshot(5, "audio");
        all.add(&snapshot(50, "audio"));
        all.add(&snapshot(7, "video"));
        let numbers: Vec<_> = all.numbers.iter().map(|series| (series.labels[0].1, series.value)).collect();
        assert_eq!(numbers, [("audio", 55), ("video", 7)]);
        assert_eq!(all.histograms.len(), 1);
        assert_eq!(all.histograms[0].value.counts(), [2, 1]);
    }
}
