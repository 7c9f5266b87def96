#include "quiescence.hpp"

#include <rte_common.h>
#include <rte_rcu_qsbr.h>

#include <new>
#include <stdexcept>
#include <thread>

namespace lw {

Quiescence::Quiescence(unsigned readers) {
  const std::size_t octets = rte_rcu_qsbr_get_memsize(readers);
  variable_.reset(static_cast<rte_rcu_qsbr*>(std::aligned_alloc(RTE_CACHE_LINE_SIZE, octets)));
  if (!variable_) throw std::bad_alloc();
  if (rte_rcu_qsbr_init(variable_.get(), readers) != 0) throw std::invalid_argument("no reader of the table");
  for (unsigned reader = 0; reader < readers; ++reader) rte_rcu_qsbr_thread_register(variable_.get(), reader);
}

void Quiescence::begin(unsigned reader) { rte_rcu_qsbr_thread_online(variable_.get(), reader); }
void Quiescence::quiescent(unsigned reader) { rte_rcu_qsbr_quiescent(variable_.get(), reader); }
void Quiescence::end(unsigned reader) { rte_rcu_qsbr_thread_offline(variable_.get(), reader); }

void Quiescence::wait() const {
  const std::uint64_t token = rte_rcu_qsbr_start(variable_.get());
  while (rte_rcu_qsbr_check(variable_.get(), token, false) != 1) std::this_thread::yield();
}

}  // namespace lw
