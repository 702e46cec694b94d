"""The experiment of networks in 8 bits: the page that it writes."""

from experiments import quantisation


def test_page_has_a_row_for_each_network_and_form():
    values = {"right": 17, "same": 20, "mean": 0.98, "worst": 0.5, "megabytes": 26.14, "milliseconds": 9.06}
    text = quantisation.page([dict.fromkeys(quantisation.FORMS, values)] * len(quantisation.NETWORKS))
    for network in quantisation.NETWORKS:
        for form in quantisation.FORMS:
            assert f"| {network.title} | {form} | 17 | 20 | 0.980 | 0.500 | 26.1 MB | 9.1 ms |" in text
