//! How what a subscriber's link carries is shared among the pictures that it shows.

/// Room that must be left before something larger is sent than is sent now: what just fits would be taken away again.
const MARGIN: (u64, u64) = (115, 100);

/// One picture that a subscriber shows.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Picture {
    /// Screen shares and who speaks come before all others.
    pub first: bool,
    /// How large it is shown, in pixels; the larger come first.
    pub area: u64,
    /// What may be sent of it: bits per second, from the least to what is wished.
    pub steps: Vec<u64>,
    /// The step that is sent now.
    pub sent: Option<usize>,
}

impl Picture {
    fn cost(&self, step: usize) -> u64 {
        let bits = self.steps[step];
        if self.sent.is_some_and(|sent| sent >= step) { bits } else { bits.saturating_mul(MARGIN.0) / MARGIN.1 }
    }
}

/// The step that each picture gets, `None` where not even the least fits; everything, without a `budget`.
///
/// Everybody is seen before anybody is seen well, but for those that come first. `budget` is bits per second.
pub fn share(budget: Option<u64>, pictures: &[Picture]) -> Vec<Option<usize>> {
    let Some(mut left) = budget else {
        return pictures.iter().map(|picture| picture.steps.len().checked_sub(1)).collect();
    };
    let mut order: Vec<usize> = (0..pictures.len()).collect();
    order.sort_by_key(|n| (std::cmp::Reverse((pictures[*n].first, pictures[*n].area)), *n));
    let mut granted = vec![None; pictures.len()];
    let mut raise = |granted: &mut Vec<Option<usize>>, n: usize| -> bool {
        let picture = &pictures[n];
        let step = granted[n].map_or(0, |step| step + 1);
        let spent = granted[n].map_or(0, |step| picture.steps[step]);
        let fits = step < picture.steps.len() && picture.cost(step).saturating_sub(spent) <= left;
        if fits {
            left -= picture.steps[step].saturating_sub(spent).min(left);
            granted[n] = Some(step);
        }
        fits
    };
    for &n in &order {
        raise(&mut granted, n);
    }
    for &n in order.iter().filter(|n| pictures[**n].first) {
        while raise(&mut granted, n) {}
    }
    loop {
        let mut raised = false;
        for &n in &order {
            raised |= granted[n].is_some() && raise(&mut granted, n);
        }
        if !raised {
            return granted;
        }
    }
}

/// What all of them would take, at what is wished.
pub fn wished(pictures: &[Picture]) -> u64 {
    pictures.iter().filter_map(|picture| picture.steps.last()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn camera(area: u64) -> Picture {
        Picture { area, steps: vec![100, 400, 1500], ..Picture::default() }
    }

    #[test]
    fn without_a_budget_everybody_gets_what_is_wished() {
        assert_eq!(share(None, &[camera(1), camera(2), Picture::default()]), [Some(2), Some(2), None]);
    }

    #[test]
    fn everybody_is_seen_before_anybody_is_seen_well() {
        assert_eq!(share(Some(340), &[camera(1), camera(2), camera(3)]), [Some(0); 3]);
        assert_eq!(share(Some(700), &[camera(1), camera(2), camera(3)]), [Some(0), Some(0), Some(1)]);
        assert_eq!(share(Some(230), &[camera(1), camera(2), camera(3)]), [None, Some(0), Some(0)]);
        assert_eq!(share(Some(90), &[camera(1)]), [None]);
    }

    #[test]
    fn a_screen_share_is_seen_well_first() {
        let screen = Picture { first: true, ..camera(0) };
        assert_eq!(share(Some(1900), &[camera(5), screen.clone()]), [Some(0), Some(2)]);
        assert_eq!(share(Some(120), &[camera(5), screen]), [None, Some(0)]);
    }

    #[test]
    fn what_is_sent_stays_where_what_is_not_would_not_begin() {
        let budget = Some(1550);
        assert_eq!(share(budget, &[camera(1)]), [Some(1)], "no room to spare");
        assert_eq!(share(budget, &[Picture { sent: Some(2), ..camera(1) }]), [Some(2)]);
    }

    proptest! {
        #[test]
        fn nobody_gets_more_than_there_is(
            budget in 0u64..5000,
            given in prop::collection::vec((any::<bool>(), 0u64..9, prop::collection::vec(1u64..2000, 0..4), 0usize..3), 0..12),
        ) {
            let pictures: Vec<_> = given.into_iter().map(|(first, area, mut steps, sent)| {
                steps.sort_unstable();
                let sent = Some(sent).filter(|sent| *sent < steps.len());
                Picture { first, area, steps, sent }
            }).collect();
            let granted = share(Some(budget), &pictures);
            let spent: u64 = granted.iter().zip(&pictures).filter_map(|(step, picture)| Some(picture.steps[(*step)?])).sum();
            prop_assert!(spent <= budget);
            prop_assert_eq!(share(None, &pictures).iter().zip(&pictures).filter_map(|(step, picture)| Some(picture.steps[(*step)?])).sum::<u64>(), wished(&pictures));
        }
    }
}
