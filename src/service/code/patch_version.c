/*
 * patch_version.c - which version of a library's symbol the patch was linked against ("GLIBC_2.2.5").
 *
 * It is wanted for one thing: a variable of a library that the program uses by name lies in the program
 * (it has been copied there), and is called "stdout@GLIBC_2.2.5" in the program's own table of symbols.
 */
#include <errno.h>
#include <gelf.h>

#include "service/code/patch_inside.h"

/* More than any object needs: a damaged one may say that there are billions. */
enum { LIBRARIES_MOST = 64, VERSIONS_MOST = 256 };

static Elf_Scn *section_of(Elf *elf, GElf_Word type, GElf_Shdr *header)
{
	Elf_Scn *section = NULL;

	while ((section = elf_nextscn(elf, section)) != NULL)
		if (gelf_getshdr(section, header) && header->sh_type == type)
			return section;
	return NULL;
}

/* The name of a version by its number, from what the object says that it needs; or NULL. */
static const char *name_of(Elf *elf, Elf_Data *needed, const GElf_Shdr *header, unsigned number)
{
	int at = 0;

	for (unsigned i = 0; i < header->sh_info && i < LIBRARIES_MOST; i++) {
		GElf_Verneed library;
		int version_at;

		if (!gelf_getverneed(needed, at, &library))
			return NULL;
		version_at = at + (int)library.vn_aux;
		for (unsigned j = 0; j < library.vn_cnt && j < VERSIONS_MOST; j++) {
			GElf_Vernaux version;

			if (!gelf_getvernaux(needed, version_at, &version))
				return NULL;
			if (version.vna_other == number)
				return elf_strptr(elf, header->sh_link, version.vna_name);
			version_at += (int)version.vna_next;
		}
		at += (int)library.vn_next;
	}
	return NULL;
}

void lh__patch_versions(struct lh_patch_object *object)
{
	GElf_Shdr numbers_header, needed_header;
	Elf_Scn *numbers = section_of(object->elf, SHT_GNU_versym, &numbers_header);
	Elf_Scn *needed = section_of(object->elf, SHT_GNU_verneed, &needed_header);
	Elf_Data *number_data = numbers ? elf_getdata(numbers, NULL) : NULL;
	Elf_Data *needed_data = needed ? elf_getdata(needed, NULL) : NULL;

	for (size_t i = 1; number_data && needed_data && i < object->imports; i++) {
		GElf_Versym number;

		if (object->import[i].wanted && gelf_getversym(number_data, (int)i, &number) && number > 1)
			object->import[i].version =
				name_of(object->elf, needed_data, &needed_header, number & 0x7fffu);
	}
}
