#include "rss_inner.hpp"

#include <rte_ethdev.h>
#include <rte_flow.h>

#include <array>
#include <numeric>
#include <vector>

namespace lw::rss_inner {

namespace {

struct Rule {
  explicit Rule(std::uint16_t queue_count) : queues(queue_count) {
    std::iota(queues.begin(), queues.end(), std::uint16_t{0});
    rss.func = RTE_ETH_HASH_FUNCTION_DEFAULT;
    rss.level = 2;
    rss.types = RTE_ETH_RSS_IPV4;
    rss.queue_num = queue_count;
    rss.queue = queues.data();
    attributes.ingress = 1;
    pattern[0].type = RTE_FLOW_ITEM_TYPE_ETH;
    pattern[1].type = RTE_FLOW_ITEM_TYPE_IPV6;
    pattern[2].type = RTE_FLOW_ITEM_TYPE_IPV4;
    pattern[3].type = RTE_FLOW_ITEM_TYPE_END;
    actions[0].type = RTE_FLOW_ACTION_TYPE_RSS;
    actions[0].conf = &rss;
    actions[1].type = RTE_FLOW_ACTION_TYPE_END;
  }

  std::vector<std::uint16_t> queues;
  rte_flow_action_rss rss{};
  rte_flow_attr attributes{};
  std::array<rte_flow_item, 4> pattern{};
  std::array<rte_flow_action, 2> actions{};
};

std::string reason(const rte_flow_error& error) { return error.message != nullptr ? error.message : "not supported"; }

}  // namespace

std::string obstacle(std::uint16_t port, std::uint16_t queues) {
  const Rule rule(queues);
  rte_flow_error error{};
  const int result = rte_flow_validate(port, &rule.attributes, rule.pattern.data(), rule.actions.data(), &error);
  return result == 0 ? std::string{} : reason(error);
}

std::string set(std::uint16_t port, std::uint16_t queues) {
  const Rule rule(queues);
  rte_flow_error error{};
  const auto* flow = rte_flow_create(port, &rule.attributes, rule.pattern.data(), rule.actions.data(), &error);
  return flow != nullptr ? std::string{} : reason(error);
}

}  // namespace lw::rss_inner
