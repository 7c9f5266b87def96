// Where memory is asked to lie, as the kernel tells it, and what an operator is told when it lies elsewhere: numa_home.
// Exits non-zero and says what was wrong. One node is enough for it; what is elsewhere on two is told by invented
// pages.
#include <linux/mempolicy.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "binding_table.hpp"
#include "numa.hpp"
#include "pages.hpp"

namespace {

using lw::Pages;
using lw::numa::Home;
using lw::numa::Nodes;

constexpr int kNoSuchNode = 1000;
constexpr std::size_t kOctets = 8U << 20, kPage = 4096;

void check(bool good, const std::string& what) {
  if (good) return;
  std::printf("wrong: %s\n", what.c_str());
  std::exit(1);
}

struct Policy {
  int mode{-1};
  std::array<unsigned long, 64> mask{};
  bool known{};
};

// Of an address, or of this thread.
Policy policy_of(const void* address) {
  Policy policy;
  const unsigned long of_address = address != nullptr ? MPOL_F_ADDR : 0;
  policy.known =
      ::syscall(SYS_get_mempolicy, &policy.mode, policy.mask.data(), 8 * sizeof policy.mask, address, of_address) == 0;
  return policy;
}

std::vector<std::string> remarks(const Home& home, const Pages& pages) {
  const std::array ranges{pages.range()};
  return home.remarks("the table", ranges);
}

void placed(bool kernel_places) {
  Home home({0});
  const Pages pages(kOctets, Pages::Use::dense);
  home.place(pages.range());
  if (!kernel_places) {
    const auto all = remarks(home, pages);
    check(all.size() == 1 && all[0].starts_with("the table was not put on NUMA node 0 ("), "a refusal is no remark");
    return;
  }
  for (const std::size_t at : {std::size_t{0}, kOctets / 2, kOctets - 1}) {
    const Policy policy = policy_of(pages.range().data() + at);
    check(policy.known && policy.mode == MPOL_PREFERRED && policy.mask[0] == 1, "the policy of what was placed");
  }
  check(lw::numa::sample(pages.range(), 100).empty(), "placing has touched pages");
  std::memset(pages.range().data(), 1, kOctets);
  const Nodes found = lw::numa::sample(pages.range(), 100);
  check(found.size() == 100 && found == Nodes(100, 0), "where touched pages are");
  check(remarks(home, pages).empty(), "a remark about memory that is where it should be");
}

void without_nodes() {
  Home home({});
  const Pages pages(kOctets, Pages::Use::dense);
  const Policy before = policy_of(pages.range().data());
  home.place(pages.range());
  check(policy_of(pages.range().data()).mode == before.mode, "a policy where none was asked for");
  check(remarks(home, pages).empty(), "a remark about nothing");
}

void no_such_node() {
  for (const int node : {kNoSuchNode, 1 << 20, -2}) {
    Home home({node});
    const Pages pages(kOctets, Pages::Use::dense);
    home.place(pages.range());
    std::memset(pages.range().data(), 1, kOctets);
    const auto all = remarks(home, pages);
    check(all.size() == 1 && all[0].find("was not put on NUMA node " + std::to_string(node)) != std::string::npos,
          "a node that does not exist");
  }
  // A table goes on as well, and grows.
  lw::BindingTable table(1000, {}, true, {kNoSuchNode});
  check(table.remarks().size() == 1, "a table on a node that does not exist");
}

void several_nodes(bool kernel_places) {
  if (!kernel_places) return;
  Home home({0, 1});
  const Pages pages(kOctets, Pages::Use::dense);
  home.place(pages.range());
  check(policy_of(pages.range().data()).mode == MPOL_INTERLEAVE, "pages of several nodes come in turn");
  const auto all = remarks(home, pages);
  check(all.size() == 1 && all[0].starts_with("workers are on NUMA nodes 0 and 1, so the table lies on them in turn"),
        "workers on several nodes");
}

void elsewhere() {
  const auto said = [](const Nodes& nodes, const Nodes& pages) {
    return lw::numa::remark_elsewhere("the table", nodes, pages);
  };
  check(said({1}, {}).empty() && said({1}, {1, 1, 1}).empty() && said({0, 2}, {0, 2, 2}).empty(), "all is well");
  check(said({1}, {1, 0, 1, 0}).starts_with("50 % of the table is not on NUMA node 1 of the workers"), "half is away");
  Nodes pages(999, 1);
  pages.push_back(0);
  check(said({1}, pages).starts_with("1 % of"), "a page of a thousand is away");
  check(said({0, 2}, {1}).starts_with("100 % of the table is not on NUMA nodes 0 and 2"), "all is away");
  check(lw::numa::text_of({0, 1, 3}) == "nodes 0, 1 and 3", "names of three nodes");
}

void preferring(bool kernel_places) {
  const Policy before = policy_of(nullptr);
  {
    const lw::numa::Preferring none(-1);
    check(policy_of(nullptr).mode == before.mode, "no node is preferred");
    const lw::numa::Preferring first(0);
    const Policy within = policy_of(nullptr);
    check(!kernel_places || (within.mode == MPOL_PREFERRED && within.mask[0] == 1), "a thread prefers a node");
  }
  const Policy after = policy_of(nullptr);
  check(after.mode == before.mode && after.mask == before.mask, "a thread goes on as before");
}

}  // namespace

int main() {
  const Pages probe(kPage, Pages::Use::sparse);
  const unsigned long first = 1;
  // A container may forbid it, a kernel may have no NUMA: then there is the remark.
  const bool kernel_places =
      ::syscall(SYS_mbind, probe.range().data(), kPage, MPOL_PREFERRED, &first, 8 * sizeof first, 0UL) == 0;
  placed(kernel_places);
  without_nodes();
  no_such_node();
  several_nodes(kernel_places);
  elsewhere();
  preferring(kernel_places);
  std::puts(kernel_places ? "memory is asked for where it should be" : "this kernel places no memory, and says so");
  return 0;
}
