//! Who wants to be woken when: a heap in which each timer knows its place, so that one that is not wanted any more is
//! taken out at once. Nothing is told to the kernel but how long the executor may sleep.

use std::{task::Waker, time::Instant};

use slab::Slab;

#[derive(Default)]
pub struct Timers {
    /// The earliest first; each entry is due no earlier than the one at half its place.
    heap: Vec<Entry>,
    timers: Slab<Timer>,
}

#[derive(Clone, Copy)]
struct Entry {
    due: Instant,
    key: usize,
}

struct Timer {
    /// In the heap; None: it has been due.
    place: Option<usize>,
    waker: Option<Waker>,
}

impl Timers {
    /// A timer's key is good until `is_over` says so, or `cancel`.
    pub fn set(&mut self, due: Instant, waker: &Waker) -> usize {
        let place = self.heap.len();
        let key = self.timers.insert(Timer { place: Some(place), waker: Some(waker.clone()) });
        self.heap.push(Entry { due, key });
        self.rise(place);
        key
    }

    /// Whether a timer has been due; it is gone then. If not, the waker is kept for when it is.
    pub fn is_over(&mut self, key: usize, waker: &Waker) -> bool {
        let timer = &mut self.timers[key];
        match &mut timer.waker {
            Some(kept) => kept.clone_from(waker),
            None => drop(self.timers.remove(key)),
        }
        !self.timers.contains(key)
    }

    /// Takes out a timer.
    pub fn cancel(&mut self, key: usize) {
        if let Some(place) = self.timers.remove(key).place {
            self.take_out(place);
        }
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.timers.len()
    }

    pub fn next_due(&self) -> Option<Instant> {
        self.heap.first().map(|entry| entry.due)
    }

    /// Whom to wake for the earliest timer, if it is due.
    pub fn expire(&mut self, now: Instant) -> Option<Waker> {
        let first = self.heap.first().filter(|entry| entry.due <= now)?;
        let key = first.key;
        self.take_out(0);
        let timer = &mut self.timers[key];
        timer.place = None;
        timer.waker.take()
    }

    fn take_out(&mut self, place: usize) {
        self.heap.swap_remove(place);
        if place < self.heap.len() {
            self.timers[self.heap[place].key].place = Some(place);
            self.rise(place);
            self.sink(place);
        }
    }

    fn rise(&mut self, mut place: usize) {
        while place > 0 {
            let above = (place - 1) / 2;
            if self.heap[above].due <= self.heap[place].due {
                break;
            }
            self.exchange(above, place);
            place = above;
        }
    }

    fn sink(&mut self, mut place: usize) {
        loop {
            let below = 2 * place + 1;
            let Some(left) = self.heap.get(below) else { break };
            let right_is_earlier = self.heap.get(below + 1).is_some_and(|right| right.due < left.due);
            let earlier = below + usize::from(right_is_earlier);
            if self.heap[place].due <= self.heap[earlier].due {
                break;
            }
            self.exchange(place, earlier);
            place = earlier;
        }
    }

    fn exchange(&mut self, one: usize, other: usize) {
        self.heap.swap(one, other);
        for place in [one, other] {
            self.timers[self.heap[place].key].place = Some(place);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeMap,
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering::Relaxed},
        },
        task::Wake,
        time::Duration,
    };

    use proptest::prelude::*;

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Relaxed);
        }
    }

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Set(u64),
        Cancel(usize),
        Look(usize),
        Pass(u64),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => (0..1000u64).prop_map(Step::Set),
            2 => any::<usize>().prop_map(Step::Cancel),
            2 => any::<usize>().prop_map(Step::Look),
            1 => (0..300u64).prop_map(Step::Pass),
        ];
        proptest::collection::vec(step, 1..400)
    }

    proptest! {
        /// Against a list that is searched: the same timers are due, in order of time; what was cancelled is not.
        #[test]
        fn timers_are_due_in_order(steps in steps()) {
            let begun = Instant::now();
            let (mut now, mut timers) = (0, Timers::default());
            // By key: when it is due, its waker, whether it has been.
            let mut model: BTreeMap<usize, (u64, Arc<Count>, bool)> = BTreeMap::new();
            let pick = |model: &BTreeMap<usize, _>, number: usize| {
                (!model.is_empty()).then(|| *model.keys().nth(number % model.len()).unwrap())
            };
            for step in steps {
                match step {
                    Step::Set(after) => {
                        let count = Arc::new(Count::default());
                        let due = now + after;
                        let key = timers.set(begun + Duration::from_micros(due), &count.clone().into());
                        prop_assert!(model.insert(key, (due, count, false)).is_none());
                    }
                    Step::Cancel(number) => {
                        if let Some(key) = pick(&model, number) {
                            timers.cancel(key);
                            let (_, count, over) = model.remove(&key).unwrap();
                            prop_assert_eq!(Arc::strong_count(&count), 1);
                            prop_assert_eq!(count.0.load(Relaxed), usize::from(over));
                        }
                    }
                    Step::Look(number) => {
                        if let Some(key) = pick(&model, number) {
                            let over = model[&key].2;
                            prop_assert_eq!(timers.is_over(key, &model[&key].1.clone().into()), over);
                            if over {
                                model.remove(&key);
                            }
                        }
                    }
                    Step::Pass(time) => {
                        now += time;
                        let mut last = 0;
                        loop {
                            let next = timers.next_due();
                            let Some(waker) = timers.expire(begun + Duration::from_micros(now)) else { break };
                            let due = (next.unwrap() - begun).as_micros() as u64;
                            prop_assert!(last <= due && due <= now);
                            last = due;
                            waker.wake();
                        }
                        for (due, count, over) in model.values_mut() {
                            *over |= *due <= now;
                            prop_assert_eq!(count.0.load(Relaxed), usize::from(*over));
                        }
                    }
                }
                let waiting = model.values().filter(|(_, _, over)| !over);
                let next = waiting.map(|(due, ..)| begun + Duration::from_micros(*due)).min();
                prop_assert_eq!(timers.next_due(), next);
            }
        }
    }
}
