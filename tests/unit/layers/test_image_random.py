"""What is drawn for an image follows from its seed alone."""

from types import SimpleNamespace

import pytest
import torch

from vit_adapter.layers.image_random import has_image_seeds, image_seeds, random_numbers_of

CPU = torch.device("cpu")


def draw(image: int) -> list[float]:
    with random_numbers_of(image, CPU):
        return torch.rand(3).tolist()


def test_neighbours_do_not_matter() -> None:
    with image_seeds([1, 2]):
        first, second = draw(0), draw(1)
    with image_seeds([2, 3, 1]):
        assert draw(2) == first
        torch.rand(5)
        assert draw(0) == second
    assert first != second


def test_uses_of_an_image_continue_its_stream() -> None:
    with image_seeds([1]):
        numbers = draw(0) + draw(0)
    with image_seeds([1]), random_numbers_of(0, CPU):
        assert torch.rand(6).tolist() == numbers
    assert len(set(numbers)) == 6


def test_default_generator_goes_on_as_if_nothing_were_drawn() -> None:
    expected = torch.manual_seed(0) and torch.rand(4).tolist()
    torch.manual_seed(0)
    numbers = torch.rand(2).tolist()
    with image_seeds([1]):
        draw(0)
        with pytest.raises(KeyError), random_numbers_of(0, CPU):
            raise KeyError
    assert numbers + torch.rand(2).tolist() == expected


@pytest.mark.parametrize("seeds", [[], [None]])
def test_without_seeds_the_default_generator_draws(seeds: list[None]) -> None:
    torch.manual_seed(0)
    expected = torch.rand(3).tolist()
    torch.manual_seed(0)
    with image_seeds(seeds):
        assert not has_image_seeds()
        assert draw(0) == expected


def test_on_another_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """The generator of the device is used; that of the CPU stays as it is."""
    generators = [torch.Generator().manual_seed(device) for device in range(2)]
    module = SimpleNamespace(default_generators=generators, current_device=lambda: 1)
    monkeypatch.setattr(torch, "get_device_module", lambda device: module)
    before = torch.get_rng_state()
    for device, generator in (("cuda:0", generators[0]), ("cuda", generators[1])):
        expected = torch.rand(3, generator=torch.Generator().manual_seed(generator.initial_seed()))
        numbers = []
        for _ in range(2):
            with image_seeds([5]), random_numbers_of(0, torch.device(device)):
                numbers.append(torch.rand(3, generator=generator).tolist())
        assert numbers[0] == numbers[1] != expected.tolist()
        assert torch.rand(3, generator=generator).equal(expected)
    assert torch.get_rng_state().equal(before)


def test_other_numbers_than_a_generator_with_the_same_seed() -> None:
    """The augmentation may use such a generator."""
    with image_seeds([7]):
        assert has_image_seeds()
        assert draw(0) != torch.rand(3, generator=torch.Generator().manual_seed(7)).tolist()
    assert not has_image_seeds()
