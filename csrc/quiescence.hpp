// Who reads on a data plane core, and how a writer waits until none of them reads what went before: rte_rcu_qsbr, a
// reader of which writes one word when somebody waits, and nothing otherwise.
#pragma once

#include <cstdlib>
#include <memory>

struct rte_rcu_qsbr;

namespace lw {

class Quiescence {
 public:
  // `readers`: numbered from 0.
  explicit Quiescence(unsigned readers);

  // A reader begins, ends a turn of its loop, whatever it has read is forgotten then, and ends. On its own thread.
  void begin(unsigned reader);
  void quiescent(unsigned reader);
  void end(unsigned reader);

  // Until each reader that had begun has ended a turn, or itself. Any thread but a reader's.
  void wait() const;

 private:
  struct Free {
    void operator()(rte_rcu_qsbr* variable) const { std::free(variable); }
  };
  std::unique_ptr<rte_rcu_qsbr, Free> variable_;
};

}  // namespace lw
